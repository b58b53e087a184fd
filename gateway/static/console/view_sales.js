// All sales, page by page, and one of them with its curve and its buttons.

import { change, look, mayChange } from "./api.js";
import { Chart, columns } from "./charts.js";
import { attempt, ask } from "./dialog.js";
import { card, el, fill, moment, money, n, pill } from "./dom.js";
import { state } from "./live.js";
import { isHidden, mayEdit, saleActions, saleTable, sorted, states, tick, timeOf } from "./sale_table.js";

const PAGE = 50;

export function sales() {
  let page = 0;
  const filter = el("input", { type: "search", placeholder: "part of an id or a name" });
  const kind = el("select", {}, ["all", "open", "paused", "created", "closed", "fenced", "archived"].map((each) => el("option", { value: each, text: each })));
  const before = el("button", { onclick: () => turn(-1) }, "Previous");
  const after = el("button", { onclick: () => turn(1) }, "Next");
  const place = el("span", { cls: "quiet" });
  const detail = el("div");
  const result = el("div", { role: "status" });
  const chart = new Chart("Units left", [{ label: "units left", colour: "--series-1", fill: true, stepped: true }]);
  const table = saleTable({ limit: PAGE, chosen });
  const view = { root: null, update, end: () => chart.destroy() };
  const turn = (pages) => { page += pages; update(new Set(["whole"])); };
  for (const input of [filter, kind]) input.addEventListener("input", () => { page = 0; update(new Set(["whole"])); });
  const make = el("button", { cls: "main", disabled: !mayChange(), onclick: () => { location.hash = "#new-sale"; } }, "New sale");
  view.root = [detail, card("Sales", el("div", { cls: "actions" }, place, make),
    el("div", { cls: "tools" }, el("label", {}, "Search", filter), el("label", {}, "State", kind), el("span", { cls: "actions" }, before, after)), table.root)];

  function update() {
    const text = filter.value.trim().toLowerCase();
    const fit = sorted([...state.rows.values()].filter((row) =>
      (kind.value === "all" || row.state === kind.value) && `${row.id} ${row.name ?? ""}`.toLowerCase().includes(text)));
    page = Math.max(0, Math.min(page, Math.ceil(fit.length / PAGE) - 1));
    const shown = fit.slice(page * PAGE, (page + 1) * PAGE);
    place.textContent = fit.length ? `${n(page * PAGE + 1)} to ${n(page * PAGE + shown.length)} of ${n(fit.length)}` : "none";
    before.disabled = page === 0;
    after.disabled = (page + 1) * PAGE >= fit.length;
    table.update(shown);
    const row = state.rows.get(chosen());
    if (result.dataset.of !== chosen()) result.replaceChildren();
    result.dataset.of = chosen();
    keepFocus(detail, () => fill(detail, row && [row, isHidden(row), mayEdit(row)], () => (row ? saleCard(row, chart, result) : [])));
    tick(detail);
    if (row) chart.show(columns(curve(row), [0, 1]));
  }
  return view;
}

function chosen() {
  const [, id] = location.hash.slice(1).split("/");
  return id ? decodeURIComponent(id) : "";
}

function curve(row) {
  const points = state.curves[row.id] ?? [];
  return points.length ? [...points, [state.at, points.at(-1)[1]]] : points;
}

// The buttons are made again when the numbers change; whoever stands on one stays there.
function keepFocus(root, work) {
  const held = document.activeElement;
  const place = [...root.querySelectorAll("button")].indexOf(held);
  work();
  if (place >= 0 && !document.contains(held)) root.querySelectorAll("button")[place]?.focus();
}

function saleCard(row, chart, result) {
  const numbers = [["left in Redis", n(row.left)], ["sold", n(row.sold)], ["held by unpaid orders", n(row.held)], ["total", n(row.total)], ["price", money(row.cents, row.currency, row.digits)], ["time", timeOf(row)]];
  if (isHidden(row)) numbers.push(["hidden until", row.announce ? moment(row.announce * 1000) : "it is announced"]);
  const restock = el("button", { disabled: !mayChange(), onclick: () => restockSale(row, restock) }, "Change the units");
  const verify = el("button", { onclick: () => count(row, verify, result) }, "Count the ledger");
  return card(`Sale ${row.id}`, el("span", { cls: "actions" }, row.name ? el("span", { cls: "quiet", text: row.name }) : null, el("a", { href: "#sales" }, "close this")),
    el("div", { cls: "grid" },
      el("div", {}, states(row),
        el("dl", { cls: "numbers" }, numbers.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", {}, value)])),
        el("div", { cls: "actions" }, saleActions(row), draftActions(row), restock, verify), result),
      chart.root));
}

// What can be done to a sale until it begins, or until buyers see it.
function draftActions(row) {
  const path = `/sales/${encodeURIComponent(row.id)}`;
  const edit = el("button", { disabled: !mayChange(), onclick: () => { location.hash = `#edit-sale/${encodeURIComponent(row.id)}`; } }, "Edit");
  const announce = el("button", { disabled: !mayChange(), onclick: () => attempt(announce, `Buyers may see sale ${row.id}.`, () => change(`${path}/announce`)) }, "Announce");
  const remove = el("button", { cls: "danger", disabled: !mayChange(), onclick: () => deleteSale(row, remove) }, "Delete");
  return [isHidden(row) ? announce : null, ...(mayEdit(row) ? [edit, remove] : [])].filter(Boolean);
}

async function deleteSale(row, button) {
  if (!(await ask({ title: `Delete sale ${row.id}?`, text: "It has not begun, so no order is lost. It cannot be brought back.", yes: "Delete it", danger: true }))) return;
  if (await attempt(button, `Sale ${row.id} is deleted.`, () => change(`/sales/${encodeURIComponent(row.id)}/delete`))) location.hash = "#sales";
}

async function restockSale(row, button) {
  const wanted = await ask({
    title: `Change the units of ${row.id}`, yes: "Change them",
    text: `It has ${n(row.total)}. Units that buyers hold cannot be taken away.`,
    fields: [{ name: "units", label: "Units to add (below 0: take out)", type: "number", value: "0" }, { name: "reason", label: "Why, for the audit trail" }],
  });
  if (!wanted) return;
  await attempt(button, `Sale ${row.id} is changed.`, () =>
    change(`/sales/${encodeURIComponent(row.id)}/restock`, { units: Number(wanted.units), from_total: row.total, reason: wanted.reason }));
}

async function count(row, button, result) {
  const ledger = await attempt(button, "The ledger is counted.", () => look(`/sales/${encodeURIComponent(row.id)}/ledger`));
  if (!ledger) return;
  result.replaceChildren(
    el("p", {}, pill(ledger.balanced ? "good" : "bad", ledger.balanced ? "balanced" : "not balanced")),
    ...ledger.violations.map((text) => el("p", { text })),
    el("pre", { tabindex: "0" }, Object.entries(ledger.lines).map(([name, value]) => `${name.replaceAll("_", " ").padEnd(24)}${n(value)}`).join("\n")));
}
