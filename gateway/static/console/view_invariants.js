// The invariants as lights, with the numbers behind them.

import { card, clock, el, fill, n, pill } from "./dom.js";
import { state } from "./live.js";

const WORDS = { holds: ["good", "holds"], watch: ["warn", "look at it"], broken: ["bad", "broken"], unknown: ["", "not counted yet"] };

export function invariants() {
  const lights = el("div", { cls: "lights" });
  const when = el("p", { cls: "quiet" });
  return {
    root: [card("Invariants", null, when, el("p", { cls: "quiet small", text: "Counted from both stores by ids, as seckill verify does, at low priority: for the sales that moved last. Count any other sale from its own page." })), lights],
    update() {
      const found = state.invariants;
      const sales = found?.sales ?? [];
      when.textContent = found?.trouble ? `Not counted: ${found.trouble}` : !found?.counted_at ? "They are counted some seconds after a page is opened, if a sale runs." : `Counted at ${clock(found.counted_at)} for ${sales.join(", ")}.`;
      fill(lights, found?.lights ?? [], () => (found?.lights ?? []).map(light));
    },
  };
}

function light({ id, title, state: standing, numbers, says }) {
  const [kind, words] = WORDS[standing] ?? WORDS.unknown;
  return el("section", { cls: `card light ${standing}`, "aria-label": `${id} ${title}` },
    el("header", {}, el("h2", { text: `${id} ${title}` }), el("span", { cls: "grow" }), pill(kind, words)),
    ...says.map((text) => el("p", { text })),
    el("dl", { cls: "numbers" }, Object.entries(numbers).flatMap(([name, value]) => [el("dt", { text: name.replaceAll("_", " ") }), el("dd", { text: n(value) })])));
}
