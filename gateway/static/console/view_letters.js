// Dead letters, grouped by cause: look at one, try them again, or give them up.

import { change, look, mayChange } from "./api.js";
import { attempt, ask } from "./dialog.js";
import { card, el, moment, n, Table } from "./dom.js";
import { state } from "./live.js";

const COLUMNS = [["queue"], ["cause", "words wide"], ["letters", "num"], ["first"], ["last"], ["sales", "words"], ["", "wide"]];

export function letters() {
  const table = new Table(COLUMNS, { empty: "No dead letters. Messages that could not succeed would be here.", caption: "The newest 1,000 open letters by queue and cause; numbers and ids in a cause are left out." });
  const counts = el("span", { cls: "quiet" });
  const sample = el("div", { role: "status" });
  return {
    root: [card("Dead letters", counts, table.root), sample],
    update() {
      const dead = state.dead ?? { open: {}, groups: [] };
      counts.textContent = Object.entries(dead.open).map(([queue, count]) => `${queue}: ${n(count)}`).join(" · ");
      table.show(dead.groups, (group) => `${group.queue} ${group.cause}`, (group) => [
        group.queue, group.cause, n(group.letters), moment(group.oldest_at), moment(group.newest_at), group.sales.slice(0, 5).join(", "), buttons(group, sample)]);
    },
  };
}

function buttons(group, sample) {
  const named = `${n(group.ids.length)} letters of ${group.queue}`;
  const show = el("button", { "aria-label": `Show a sample of ${named}`, onclick: () => showSample(group.ids[0], show, sample) }, "Sample");
  const replay = el("button", { disabled: !mayChange(), "aria-label": `Replay ${named}`, onclick: () => replayAll(group, replay) }, "Replay");
  const discard = el("button", { disabled: !mayChange(), cls: "danger", "aria-label": `Discard ${named}`, onclick: () => discardAll(group, discard) }, "Discard");
  return el("div", { cls: "actions" }, show, replay, discard);
}

async function showSample(id, button, root) {
  const letter = await attempt(button, `Letter ${id} is below.`, () => look(`/dead-letters/${id}`));
  if (!letter) return;
  const facts = [["queue", letter.queue], ["sale", letter.sale_id ?? "unknown"], ["attempts", n(letter.attempts)], ["died", `${n(letter.deaths)} times`], ["replayed", `${n(letter.replays)} times`], ["first", moment(letter.first_at)], ["last", moment(letter.last_at)]];
  root.replaceChildren(card(`Letter ${letter.letter_id}`, null,
    el("dl", { cls: "numbers" }, facts.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })])),
    el("h3", { text: "Reason" }), el("pre", { tabindex: "0", text: letter.reason }),
    letter.stack ? [el("h3", { text: "Where it failed" }), el("pre", { tabindex: "0", text: letter.stack })] : null,
    el("h3", { text: "Message" }), el("pre", { tabindex: "0", text: letter.body })));
  root.scrollIntoView({ block: "nearest" });
}

async function replayAll(group, button) {
  const more = group.letters > group.ids.length ? ` The other ${n(group.letters - group.ids.length)} come after.` : "";
  if (!(await ask({ title: `Replay ${n(group.ids.length)} letters?`, text: `They go to ${group.queue} again. An order never exists twice. Mend the cause first, or they die again.${more}`, yes: "Replay them" }))) return;
  await attempt(button, (done) => outcome(done), () => change("/dead-letters/replay", { ids: group.ids }));
}

async function discardAll(group, button) {
  const wanted = await ask({
    title: `Discard ${n(group.ids.length)} letters?`, yes: "Discard them", danger: true,
    text: "Their orders without a row are cancelled, and their units go back on sale. This cannot be undone.",
    fields: [{ name: "reason", label: "Why, for the audit trail" }],
  });
  if (!wanted) return;
  await attempt(button, (done) => outcome(done), () => change("/dead-letters/discard", { ids: group.ids, reason: wanted.reason }));
}

function outcome(done) {
  const counts = {};
  for (const { outcome } of done.letters) counts[outcome] = (counts[outcome] ?? 0) + 1;
  return Object.entries(counts).map(([words, count]) => `${n(count)} ${words}`).join(", ");
}
