// The stores, the processes of the installation, and who changed what.

import { card, el, fill, moment, n, percent, pill, span, Table } from "./dom.js";
import { now, state } from "./live.js";

const PROCESSES = [["process"], ["host"], ["pid", "num"], ["CPU", "num"], ["memory", "num"], ["restarts", "num"], ["runs for", "num"], ["state", "words"], ["roles", "words wide"]];
const AUDIT = [["when"], ["who"], ["what"], ["sale"], ["why", "words wide"], ["details", "words wide"]];
const STORES = { redis: "Redis", rabbitmq: "RabbitMQ", postgresql: "PostgreSQL" };

export function trail() {
  const stores = el("div", { cls: "lights" });
  const processes = new Table(PROCESSES, { empty: "No process reports.", caption: "Each process reports every two seconds, through Redis." });
  const audit = new Table(AUDIT, { empty: "Nothing was changed yet." });
  return {
    root: [card("Stores", null, stores), card("Processes", null, processes.root), card("Audit", null, audit.root)],
    update() {
      fill(stores, state.stores ?? [], () => (state.stores ?? []).map(store));
      processes.show(state.processes ?? [], (each) => each.id, cells, (each) => [each, minutes(each)]);
      audit.show(state.audit ?? [], (row) => row.audit_id, (row) => [moment(row.at), row.actor, row.action, row.sale_id ?? "", row.reason, row.details === "{}" ? "" : row.details]);
    },
  };
}

function store({ name, well, says, asked, without }) {
  return el("section", { cls: `card light ${well ? "holds" : "broken"}`, "aria-label": name },
    el("header", {}, el("h3", { text: name }), el("span", { cls: "grow" }), pill(well ? "good" : "bad", well ? "works" : "fails")),
    well ? el("p", { cls: "quiet", text: `All of ${n(asked)} processes find it well.` }) : says.map(({ words, by }) => el("p", {}, el("code", { text: words }), ` (${by.join(", ")})`)),
    well ? null : el("p", { cls: "small", text: without }));
}

const minutes = (each) => Math.floor((now() - each.started_at) / 60);

function cells(each) {
  const failing = Object.keys(each.reasons).map((name) => STORES[name] ?? name);
  const standing = each.silent_s ? pill("bad", `silent for ${span(each.silent_s)}`) : failing.length ? pill("bad", `without ${failing.join(", ")}`) : pill("good", "well");
  const roles = [...each.roles, ...each.paused.map((role) => `${role} (paused)`)].join(", ");
  return [each.kind, each.host, String(each.pid), each.cpu === null ? "–" : percent(each.cpu), `${n(each.memory_mb)} MB`, n(each.restarts), minutes(each) ? span(minutes(each) * 60) : "under a minute", standing, roles];
}
