// Elements, tables that keep the focus while they change, and how numbers and times are written.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name === "cls" ? "class" : name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const pill = (kind, text) => el("span", { cls: `pill ${kind}` }, text);

export function card(title, tools, ...body) {
  const head = el("header", {}, el("h2", { text: title }), el("span", { cls: "grow" }), tools);
  return el("section", { cls: "card", "aria-label": title }, head, ...body);
}

// Columns are [title, class]; a row is made again only if what it shows has changed.
export class Table {
  constructor(columns, { caption, empty, stack = true } = {}) {
    this.columns = columns;
    this.rows = new Map();
    const heads = columns.map(([title, cls]) => el("th", { scope: "col", cls }, title));
    this.body = el("tbody");
    const table = el("table", { cls: stack ? "stack" : "" });
    if (caption) table.append(el("caption", { text: caption }));
    table.append(el("thead", {}, el("tr", {}, heads)), this.body);
    this.empty = el("p", { cls: "quiet", text: empty ?? "Nothing." });
    this.scroll = el("div", { cls: "scroll" }, table);
    this.root = el("div", {}, this.scroll, this.empty);
  }

  // `cells` gives the cells of an item; `key` names it; `shown` is all that its cells depend on.
  show(items, key, cells, shown = (item) => item) {
    const focus = focusIn(this.body);
    const kept = new Map();
    items.forEach((item, place) => {
      const name = String(key(item));
      const state = JSON.stringify(shown(item));
      let row = this.rows.get(name);
      if (!row || row.state !== state) {
        const made = el("tr", { "data-key": name }, cells(item).map((cell, i) => this.cell(cell, i)));
        row?.node.remove();
        row = { node: made, state };
      }
      kept.set(name, row);
      if (this.body.children[place] !== row.node) {
        this.body.insertBefore(row.node, this.body.children[place] ?? null);
      }
    });
    for (const [name, row] of this.rows) if (kept.get(name) !== row) row.node.remove();
    this.rows = kept;
    this.scroll.hidden = !items.length;
    this.empty.hidden = items.length > 0;
    focus?.();
  }

  cell(content, place) {
    const [title, cls] = this.columns[place];
    const none = content === "" || content === "–";
    return el("td", { cls: none ? `${cls ?? ""} none` : cls, "data-label": title }, none ? "–" : content);
  }
}

// Return what gives the focus back to the button of the same row, if a row is made again.
function focusIn(body) {
  const button = document.activeElement;
  const row = body.contains(button) ? button.closest("tr") : null;
  if (!row) return null;
  const places = [...row.querySelectorAll("button, a, input")];
  const place = places.indexOf(button);
  return () => {
    if (document.contains(button)) return;
    const again = body.querySelector(`tr[data-key="${CSS.escape(row.dataset.key)}"]`);
    again?.querySelectorAll("button, a, input")[place]?.focus();
  };
}

// Put in other children, unless they show the same as before.
const shownBefore = new WeakMap();
export function fill(root, state, make) {
  const text = JSON.stringify(state);
  if (shownBefore.get(root) === text) return;
  shownBefore.set(root, text);
  root.replaceChildren(...[make()].flat().filter(Boolean));
}

const whole = new Intl.NumberFormat("en");
export const n = (value) => (value === null || value === undefined ? "–" : whole.format(value));
export const perSecond = (value) => `${n(value < 10 ? Math.round(value * 10) / 10 : Math.round(value))}/s`;
export const ms = (value) => (value === null || value === undefined ? "–" : `${n(value < 10 ? value : Math.round(value))} ms`);
export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
export const money = (cents, currency, digits) => `${(cents / 10 ** digits).toFixed(digits)} ${currency}`;

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString("en-GB");
export function moment(iso) {
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString("en-GB") : at.toLocaleString("en-GB");
}
