// Sales as a table: one page of it at a time, so that a thousand cost no more than fifty.

import { change, mayChange } from "./api.js";
import { attempt, ask } from "./dialog.js";
import { el, money, n, pill, span, Table } from "./dom.js";
import { now, state } from "./live.js";

const ORDER = { fenced: 0, open: 1, paused: 2, created: 3, closed: 4, archived: 5 };
const KINDS = { open: "good", paused: "warn", fenced: "bad" };
const COLUMNS = [["sale"], ["state"], ["time"], ["left", "num"], ["sold", "num"], ["held", "num"], ["total", "num"], ["price", "num"], ["", "wide"]];

// The sale whose units moved last, or else the newest one that is open.
export function topSale() {
  const open = [...state.rows.values()].filter((row) => row.state === "open" || row.state === "paused");
  const at = (row) => ((state.curves[row.id]?.length ?? 0) > 1 ? state.curves[row.id].at(-1)[0] : 0);
  return open.sort((a, b) => at(b) - at(a) || b.n - a.n)[0];
}

export function sorted(rows) {
  return rows.sort((a, b) => (ORDER[a.state] ?? 9) - (ORDER[b.state] ?? 9) || b.n - a.n);
}

export function saleTable({ limit, chosen = () => "" }) {
  const table = new Table(COLUMNS, { empty: "No sale here." });
  return {
    root: table.root,
    update(rows = sorted([...state.rows.values()].filter((row) => ORDER[row.state] < 3))) {
      table.show(rows.slice(0, limit), (row) => row.id, cells, (row) => [row, isHidden(row), chosen() === row.id]);
      tick(table.root);
    },
  };
}

function cells(row) {
  const link = el("a", { href: `#sales/${encodeURIComponent(row.id)}`, text: row.id });
  const name = row.name ? el("div", {}, link, el("div", { cls: "quiet small name", text: row.name })) : link;
  const share = row.total && row.left !== null ? Math.max(0, Math.min(1, row.left / row.total)) : 0;
  const left = el("div", {}, n(row.left), bar(share));
  return [name, states(row), timeOf(row), left, n(row.sold), n(row.held), n(row.total), money(row.cents, row.currency, row.digits), saleActions(row, true)];
}

export const isHidden = (row) => row.hidden && (!row.announce || row.announce > now());

// Until a sale begins, its terms may change and it may be deleted.
export const mayEdit = (row) => row.state === "created" || (row.state !== "archived" && row.opens > now());

export const states = (row) => el("div", { cls: "actions" }, pill(KINDS[row.state] ?? "", row.state), isHidden(row) ? pill("", "hidden") : null);

function bar(share) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  svg.setAttribute("viewBox", "0 0 100 6");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("width", (share * 100).toFixed(1));
  rect.setAttribute("height", "6");
  svg.append(rect);
  return el("div", { cls: "bar-track" }, svg);
}

// Countdowns run on without a row being made again.
export const timeOf = (row) => el("span", { "data-sale-time": row.id, text: time(row) });

export function tick(root) {
  for (const node of root.querySelectorAll("[data-sale-time]")) {
    const row = state.rows.get(node.dataset.saleTime);
    if (row && node.textContent !== time(row)) node.textContent = time(row);
  }
}

export function time(row) {
  const at = now();
  if (row.state === "closed" || row.state === "archived") return "over";
  if (row.opens && row.opens > at) return `opens in ${span(row.opens - at)}`;
  if (row.closes && row.closes > at) return `closes in ${span(row.closes - at)}`;
  if (row.closes) return "its time is over";
  return row.state === "created" ? "not opened yet" : "until it is closed";
}

const DONE = { open: "open", pause: "paused", resume: "open again", close: "closed" };

// The changes that fit the state of a sale; a row has the most common one alone.
export function saleActions(row, short = false) {
  const fit = { created: ["open"], closed: ["open"], open: ["pause", "close"], paused: ["resume", "close"] }[row.state] ?? [];
  const verbs = short ? fit.slice(0, 1) : fit;
  return el("div", { cls: "actions" }, verbs.map((verb) => {
    const title = verb[0].toUpperCase() + verb.slice(1);
    const button = el("button", { cls: verb === "close" ? "danger" : "", disabled: !mayChange(), "aria-label": `${title} sale ${row.id}`, onclick: () => act(row, verb, button) }, title);
    return button;
  }));
}

async function act(row, verb, button) {
  const says = {
    open: "Buyers can grab from its opening time on.",
    pause: "Buyers get 503 and may come back; orders go on.",
    close: "Buyers are told that the sale is over. Its orders go on.",
  };
  if (says[verb] && !(await ask({ title: `${verb[0].toUpperCase()}${verb.slice(1)} sale ${row.id}?`, text: says[verb], yes: `${verb[0].toUpperCase()}${verb.slice(1)} it`, danger: verb === "close" }))) return;
  await attempt(button, `Sale ${row.id} is ${DONE[verb]}.`, () => change(`/sales/${encodeURIComponent(row.id)}/${verb}`));
}
