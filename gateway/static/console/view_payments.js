// Transactions that are parked, and card payments whose outcome the provider has not said.

import { change, look, mayChange } from "./api.js";
import { attempt, ask } from "./dialog.js";
import { card, el, moment, money, n, span, Table } from "./dom.js";
import { state } from "./live.js";

const PARKED = [["transaction", "words"], ["of"], ["parked while"], ["failed", "num"], ["begun"], ["why", "words wide"], ["", "wide"]];
const CARDS = [["payment", "words"], ["order", "words"], ["state"], ["amount", "num"], ["for", "num"], ["asked", "num"], ["the provider said", "words"]];

export function payments() {
  const parked = new Table(PARKED, { empty: "No transaction is parked." });
  const cards = new Table(CARDS, { empty: "The outcome of each card payment is known." });
  const sample = el("div", { role: "status" });
  const askNow = el("button", {
    onclick: () => attempt(askNow, "The provider is asked about all of them.", () => change("/card-payments/ask")),
  }, "Ask the provider now");
  return {
    root: [
      card("Parked transactions", null, el("p", { cls: "quiet small", text: "Retry lets recovery go on at once. Settle closes one by hand: look first at what its branches did." }), parked.root),
      sample,
      card("Unknown card payments", askNow, cards.root),
    ],
    update() {
      askNow.disabled = !mayChange() || !state.cards?.payments;
      parked.show(state.parked ?? [], (tx) => tx.tx_id, (tx) => [
        tx.tx_id, tx.name, tx.parked_in ?? "", n(tx.attempts), moment(tx.created_at), tx.error ?? tx.reason ?? "", buttons(tx, sample)]);
      cards.show(state.cards?.list ?? [], (pay) => pay.tx_id, (pay) => [
        pay.tx_id, pay.order_id, pay.state, money(pay.cents, pay.currency, pay.digits), span(pay.age_s), n(pay.asks), pay.said ?? "nothing"]);
    },
  };
}

function buttons(tx, sample) {
  const show = el("button", { "aria-label": `Show ${tx.tx_id}`, onclick: () => showOne(tx, show, sample) }, "Branches");
  const retry = el("button", { disabled: !mayChange(), "aria-label": `Retry ${tx.tx_id}`, onclick: () => attempt(retry, "Recovery goes on with it.", () => change(path(tx, "retry"))) }, "Retry");
  const settle = el("button", { disabled: !mayChange(), cls: "danger", "aria-label": `Settle ${tx.tx_id}`, onclick: () => settleOne(tx, settle) }, "Settle");
  return el("div", { cls: "actions" }, show, retry, settle);
}

const path = (tx, verb) => `/transactions/${encodeURIComponent(tx.tx_id)}${verb ? `/${verb}` : ""}`;

async function showOne(tx, button, root) {
  const found = await attempt(button, "Its branches are below.", () => look(path(tx)));
  if (!found) return;
  const table = new Table([["branch"], ["operation"], ["attempts", "num"], ["first"], ["done"], ["last error", "words wide"]], { empty: "No branch was called." });
  table.show(found.branches, (b) => `${b.branch} ${b.op}`, (b) => [b.branch, b.op, n(b.attempts), moment(b.first_at), b.done_at ? moment(b.done_at) : "not done", b.error ?? ""]);
  root.replaceChildren(card(`Transaction ${tx.tx_id}`, null, table.root, el("h3", { text: "Arguments" }), el("pre", { tabindex: "0", text: JSON.stringify(found.args, null, 1) })));
  root.scrollIntoView({ block: "nearest" });
}

async function settleOne(tx, button) {
  const wanted = await ask({
    title: `Settle ${tx.tx_id} by hand?`, yes: "Settle it", danger: true,
    text: "Nothing is done at its branches: you have seen what they did. Type confirmed if its work is done, canceled if it is undone.",
    fields: [{ name: "to", label: "confirmed or canceled" }, { name: "reason", label: "Why, for the audit trail" }],
  });
  if (!wanted) return;
  await attempt(button, "It is settled.", () => change(path(tx, "settle"), wanted));
}
