// The consumers: what waits for each role, and the pools that run them.

import { change, mayChange } from "./api.js";
import { attempt, ask } from "./dialog.js";
import { card, el, fill, n, perSecond, pill, span, Table } from "./dom.js";
import { state } from "./live.js";

const COLUMNS = [["role"], ["state"], ["processes", "num"], ["waiting", "num"], ["oldest", "num"], ["in work", "num"], ["done", "num"], ["errors", "num"], ["restarts", "num"], ["", "wide"]];
const QUEUES = [["role"], ["waiting", "num"], ["oldest", "num"], ["consumers", "num"], ["note", "words wide"]];

export function work() {
  const pools = new Map();
  const root = el("div", { cls: "grid-none" });
  const queues = new Table(QUEUES, { empty: "Nothing is known of the queues yet.", caption: "Read from the stores: messages on RabbitMQ, rows in PostgreSQL, entries in Redis." });
  const none = el("p", { cls: "quiet", text: "No pool manager reports. Consumers that run without one are under Processes; scale them where they were started." });
  root.append(none, el("div"));
  return {
    root: [root, card("What waits, by role", null, queues.root)],
    update() {
      const found = state.pools ?? [];
      none.hidden = found.length > 0;
      for (const pool of found) if (!pools.has(pool.id)) pools.set(pool.id, poolCard(pool.id));
      for (const [id, each] of pools) if (!found.some((pool) => pool.id === id)) { each.root.remove(); pools.delete(id); }
      for (const pool of found) {
        const each = pools.get(pool.id);
        if (!each.root.isConnected) root.append(each.root);
        each.update(pool);
      }
      queues.show(state.queues ?? [], (queue) => queue.role, (queue) => [queue.role, n(queue.size), span(queue.oldest_age_s), n(queue.consumers), queue.note ?? ""]);
    },
  };
}

function poolCard() {
  const table = new Table(COLUMNS, { empty: "The pool manager has not looked yet." });
  const buttons = el("div", { cls: "actions" });
  const where = el("p", { cls: "quiet small" });
  const root = card("Pool", buttons, where, table.root);
  return {
    root,
    update(pool) {
      const here = pool.home === state.me?.home && pool.host === state.me?.host;
      const may = mayChange() && here;
      where.textContent = here ? `Manager ${pool.pid} on ${pool.host}.` : `Manager ${pool.pid} on ${pool.host}, in ${pool.home}. This gateway cannot reach it: use the console of a gateway there, or seckill pool.`;
      fill(buttons, may, () => poolButtons(may));
      table.show(pool.roles, (row) => row.role, (row) => cells(row, may), (row) => [row, waiting(row.role), may]);
    },
  };
}

const waiting = (role) => (state.queues ?? []).find((queue) => queue.role === role);

function cells(row, may) {
  const queue = waiting(row.role);
  const bounds = row.min === null || row.min === undefined ? "" : ` (${row.min} to ${row.max})`;
  return [row.role, standing(row), `${n(row.running)} of ${n(row.paused ? 0 : row.wanted)}${bounds}`, queue ? n(queue.size) : "–", queue ? span(queue.oldest_age_s) : "–",
    n(row.in_flight ?? 0), perSecond(row.rate_per_s ?? 0), n(row.errors ?? 0), n(row.restarts ?? 0), roleButtons(row, may)];
}

function standing(row) {
  if (row.paused) return pill("warn", "paused");
  if (row.held) return pill("bad", "waits for a store");
  if (row.running < row.wanted) return pill("warn", "starting");
  if (row.running > row.wanted) return pill("warn", "stopping");
  return pill("good", "works");
}

function roleButtons(row, may) {
  const pause = el("button", { disabled: !may, "aria-label": `${row.paused ? "Resume" : "Pause"} ${row.role}`, onclick: () => pauseRole(row, pause) }, row.paused ? "Resume" : "Pause");
  const scale = el("button", { disabled: !may, "aria-label": `Scale ${row.role}`, onclick: () => scaleRole(row, scale) }, "Scale");
  return el("div", { cls: "actions" }, scale, pause);
}

async function scaleRole(row, button) {
  const wanted = await ask({
    title: `Scale ${row.role}`, yes: "Scale",
    text: "Equal bounds are a fixed count. Different ones let the pool choose, by what waits.",
    fields: [
      { name: "low", label: "At least", type: "number", value: row.min ?? row.wanted, min: 0, max: 20 },
      { name: "high", label: "At most", type: "number", value: row.max ?? row.wanted, min: 0, max: 20 },
    ],
  });
  if (!wanted) return;
  await attempt(button, `${row.role} is scaled.`, () => change("/pool/scale", { counts: { [row.role]: [Number(wanted.low), Number(wanted.high)] } }));
}

async function pauseRole(row, button) {
  const verb = row.paused ? "resume" : "pause";
  if (verb === "pause" && !(await ask({ title: `Pause ${row.role}?`, text: "It finishes what it has taken, and takes no more until it is resumed.", yes: "Pause it" }))) return;
  await attempt(button, `${row.role} is ${verb}d.`, () => change(`/pool/${verb}`, { roles: [row.role] }));
}

function poolButtons(may) {
  const all = (verb, title, text, done, danger) => {
    const button = el("button", {
      disabled: !may, cls: danger ? "danger" : "",
      onclick: async () => {
        if (await ask({ title: `${title}?`, text, yes: title, danger })) await attempt(button, done, () => change(`/pool/${verb}`));
      },
    }, title);
    return button;
  };
  return [
    all("restart", "Restart all", "Each worker is replaced after the other, when it has finished its batch.", "The restart is under way."),
    all("drain", "Drain all", "All roles finish what they have taken, and take no more.", "The pool drains.", true),
    all("resume", "Resume all", "All roles that are paused work again.", "All roles work."),
  ];
}
