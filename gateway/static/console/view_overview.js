// The first view: what sells now, how fast answers come, what waits for an operator.

import { state } from "./live.js";
import { Chart, columns } from "./charts.js";
import { card, el, fill, ms, n, percent, perSecond, span } from "./dom.js";
import { saleTable, topSale } from "./sale_table.js";

const VERDICTS = {
  accepted: "won", duplicate: "repeats of winners", sold_out: "sold out", not_open: "not open", closed: "closed",
  paused: "paused", quantity: "too many units", outbox_full: "outbox full", unavailable: "unavailable", rate_limited: "rate limited",
};

export function overview() {
  const tiles = el("div", { cls: "tiles" });
  const units = new Chart("Units left of the sale that moves", [{ label: "units left", colour: "--series-1", fill: true, stepped: true }]);
  const grabs = new Chart("Grabs a second", [
    { label: "won", colour: "--series-1", fill: true },
    { label: "refused", colour: "--series-2" },
    { label: "shed", colour: "--series-3", dash: [4, 3] },
  ]);
  const waits = new Chart("Wait for an answer", [
    { label: "p50", colour: "--series-1" },
    { label: "p99", colour: "--series-2" },
  ], { unit: " ms" });
  const title = el("span", { cls: "quiet" });
  const verdicts = el("p", { cls: "quiet small" });
  const table = saleTable({ limit: 8 });
  const root = [
    tiles,
    el("div", { cls: "grid" },
      card("Units left", title, units.root),
      card("Grabs a second", null, grabs.root, verdicts),
      card("Wait for an answer", null, waits.root)),
    card("Sales that run", el("a", { href: "#sales" }, "all sales"), table.root),
  ];
  const charts = [units, grabs, waits];
  return {
    root,
    end: () => charts.forEach((chart) => chart.destroy()),
    update() {
      fill(tiles, tilesNow(), () => tilesNow().map(tile));
      const sale = topSale();
      title.textContent = sale ? `${sale.id}: ${n(sale.left)} of ${n(sale.total)}` : "no sale is open";
      units.show(columns(sale ? curve(sale) : [], [0, 1]));
      grabs.show(columns(state.points, [0, 1, 2, 3]));
      waits.show(columns(state.points, [0, 4, 5]));
      const by = Object.entries(state.rates?.grabs ?? {}).filter(([, rate]) => rate > 0);
      verdicts.textContent = by.length ? by.map(([verdict, rate]) => `${VERDICTS[verdict] ?? verdict} ${perSecond(rate)}`).join(" · ") : "No grabs at this moment.";
      table.update();
    },
  };
}

// The last point again at this moment, so that the curve reaches the right edge.
function curve(sale) {
  const points = state.curves[sale.id] ?? [];
  return points.length ? [...points, [state.at, points.at(-1)[1]]] : points;
}

function tilesNow() {
  const rates = state.rates ?? { grabs: {}, shed_share: 0 };
  const all = Object.values(rates.grabs).reduce((sum, rate) => sum + rate, 0);
  const open = [...state.rows.values()].filter((row) => row.state === "open").length;
  const letters = Object.values(state.dead?.open ?? {}).reduce((sum, count) => sum + count, 0);
  const parked = state.parked?.length ?? 0;
  const cards = state.cards?.payments ?? 0;
  const age = Math.max(0, ...(state.queues ?? []).map((queue) => queue.oldest_age_s ?? 0));
  const silent = (state.processes ?? []).filter((each) => each.silent_s).length;
  return [
    ["open sales", n(open), ""],
    ["grabs", perSecond(all), ""],
    ["won", perSecond(rates.grabs.accepted ?? 0), ""],
    ["wait, p50 / p99", rates.p50_ms === null || rates.p50_ms === undefined ? "–" : `${ms(rates.p50_ms)} / ${ms(rates.p99_ms)}`, rates.p99_ms > 250 ? "warn" : ""],
    ["shed", percent(rates.shed_share), rates.shed_share > 0.01 ? "warn" : ""],
    ["oldest waiting work", span(age), age > 30 ? "warn" : ""],
    ["dead letters", n(letters), letters ? "bad" : ""],
    ["parked transactions", n(parked), parked ? "bad" : ""],
    ["unknown card payments", n(cards), state.cards?.oldest_s > 300 ? "bad" : cards ? "warn" : ""],
    ["processes", silent ? `${n(state.processes.length)}, ${silent} silent` : n(state.processes?.length ?? 0), silent ? "warn" : ""],
  ];
}

const tile = ([label, value, kind]) =>
  el("div", { cls: `tile ${kind}` }, el("div", { cls: "n", text: value }), el("div", { cls: "quiet small", text: label }));
