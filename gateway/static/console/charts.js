// Charts over time, drawn by uPlot in the colours of the theme.

import uPlot from "./uPlot.esm.js";
import { el } from "./dom.js";

const HEIGHT = 190;
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const clocks = (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleTimeString("en-GB"));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Series are {label, colour: "--series-1", fill, stepped}; `show(columns)` draws new values.
export class Chart {
  constructor(label, series, { unit = "" } = {}) {
    this.series = series;
    this.unit = unit;
    this.root = el("div", { cls: "chart", role: "img", "aria-label": label });
    this.columns = [[], ...series.map(() => [])];
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.root);
  }

  show(columns) {
    this.columns = columns;
    if (!this.plot || this.theme !== document.documentElement.dataset.theme) this.draw();
    else this.plot.setData(columns);
  }

  destroy() {
    this.observer.disconnect();
    this.plot?.destroy();
  }

  resize() {
    const width = this.root.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
    else if (!this.plot && width) this.draw();
  }

  draw() {
    const width = this.root.clientWidth;
    if (!width) return;
    this.plot?.destroy();
    this.theme = document.documentElement.dataset.theme;
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const format = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 10) / 10}${this.unit}`);
    this.plot = new uPlot(
      {
        width, height: HEIGHT,
        cursor: { y: false },
        scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.08] } },
        axes: [{ ...axis, values: clocks, incrs: STEPS_S, space: 70 }, { ...axis, size: 56, values: (_, ticks) => ticks.map((t) => t.toLocaleString("en")) }],
        series: [
          { label: "at", value: (_, at) => (at ? clocks(null, [at])[0] : "–") },
          ...this.series.map((each) => ({
            label: each.label, stroke: colour(each.colour), width: 2, points: { show: false },
            fill: each.fill ? `${colour(each.colour)}22` : undefined, dash: each.dash,
            paths: each.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
            value: (_, value) => format(value), spanGaps: true,
          })),
        ],
      },
      this.columns, this.root,
    );
  }
}

export const columns = (rows, places) => places.map((place) => rows.map((row) => row[place]));
