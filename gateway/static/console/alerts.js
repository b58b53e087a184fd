// What is wrong now, on top of every view: first the stores, each in its own words.

import { state } from "./live.js";
import { el, fill, span } from "./dom.js";

const PARTS = {
  processes: "processes", units: "units left", sales: "sales", lists: "dead letters, payments and audit", queues: "queues",
};

export function showAlerts(root) {
  const alerts = found();
  fill(root, alerts, () => alerts.map(({ kind, title, words, note }) =>
    el("div", { cls: `alert ${kind}` }, el("strong", { text: title }),
      words.map((line) => el("div", { cls: "words", text: line })),
      note ? el("div", { cls: "small", text: note }) : null)));
}

function found() {
  const alerts = [];
  if (!state.connected && state.stores) {
    alerts.push({ kind: "bad", title: "No news from this gateway", words: [], note: "What you see is old. The page connects again by itself." });
  }
  for (const store of state.stores ?? []) if (!store.well) alerts.push(ofStore(store));
  const broken = (state.invariants?.lights ?? []).filter((light) => light.state === "broken");
  if (broken.length) {
    alerts.push({ kind: "bad", title: `Broken: ${broken.map((l) => `${l.id} (${l.title})`).join(", ")}`, words: broken.flatMap((l) => l.says.slice(0, 2)), note: "See Invariants for the numbers." });
  }
  const silent = (state.processes ?? []).filter((p) => p.silent_s);
  const redis = (state.stores ?? []).find((s) => s.store === "redis");
  if (silent.length && redis?.well) {
    alerts.push({ kind: "warn", title: `${silent.length} of ${state.processes.length} processes do not report`, words: silent.map((p) => `${p.kind} ${p.pid} on ${p.host}`), note: "They hang, or were killed a moment ago; one that is gone leaves this list after a minute." });
  }
  return alerts;
}

function ofStore(store) {
  const seconds = store.for_s > 1 ? `, for ${span(Math.floor(store.for_s / 5) * 5 || store.for_s)}` : "";
  const words = store.says.map(({ words, by }) => `${words} — ${by.length > 3 ? `${by.slice(0, 3).join(", ")} and ${by.length - 3} more` : by.join(", ")}`);
  const old = Object.keys(state.troubles ?? {}).filter((part) => (state.troubles[part] ?? "").includes(store.name)).map((part) => PARTS[part]).filter(Boolean);
  const shown = old.length ? ` Shown as they were before: ${old.join(", ")}.` : "";
  return { kind: "bad", title: `${store.name} does not do its work${seconds}`, words, note: `${store.without}${shown}` };
}
