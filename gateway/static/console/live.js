// The snapshots: one a second from the gateway, put together here into one state.

export const state = { rows: new Map(), curves: {}, points: [], connected: false, at: 0, skew: 0 };
const listeners = new Set();
let source = null;
let silence = null;

// `call` gets the set of parts that changed; it returns what stops it.
export function listen(call) {
  listeners.add(call);
  return () => listeners.delete(call);
}

export function connect() {
  disconnect();
  source = new EventSource("/console/events");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = () => lost();
}

export function disconnect() {
  source?.close();
  source = null;
  clearTimeout(silence);
  state.connected = false;
}

function lost() {
  const was = state.connected;
  state.connected = false;
  if (was) publish(new Set(["connected"]));
  // A browser gives up after an answer that is no stream: too many pages, or the session is over.
  if (source?.readyState === EventSource.CLOSED) {
    publish(new Set(["closed"]));
    setTimeout(() => source && connect(), 5000);
  }
}

function take(event) {
  clearTimeout(silence);
  silence = setTimeout(lost, 5000);
  const changed = new Set(Object.keys(event));
  if (!state.connected) changed.add("connected");
  const { whole, rows, gone = [], curves, points, ...parts } = event;
  if (whole) {
    state.rows.clear();
    state.curves = curves;
    state.points = points;
  }
  for (const row of rows) note(row, event.at);
  for (const name of gone) state.rows.delete(name);
  if (!whole && parts.rates) addPoint(parts.rates, event.at);
  else if (!whole && state.rates) addPoint(state.rates, event.at);
  Object.assign(state, parts, { connected: true, skew: event.at - Date.now() / 1000 });
  if (rows.length || gone.length) changed.add("rows");
  publish(changed);
}

// Remember a curve of each sale that moves, as long as the page is open.
function note(row, at) {
  const before = state.rows.get(row.id);
  state.rows.set(row.id, row);
  if (row.left === null) return;
  const curve = (state.curves[row.id] ??= []);
  if (!before || before.left !== row.left || !curve.length) curve.push([at, row.left]);
  if (curve.length > 600) curve.shift();
}

function addPoint(rates, at) {
  const won = rates.grabs.accepted ?? 0;
  const all = Object.values(rates.grabs).reduce((sum, rate) => sum + rate, 0);
  state.points.push([Math.round(at), won, all - won, rates.shed_per_s, rates.p50_ms, rates.p99_ms]);
  if (state.points.length > 600) state.points.shift();
}

function publish(changed) {
  for (const call of [...listeners]) call(changed);
}

// The gateway's clock, as a page sees it: countdowns do not depend on the operator's own.
export const now = () => Date.now() / 1000 + state.skew;
