// The form in which a sale is made, and in which its terms change until it begins.

import { change, look, mayChange, parseJson, Problem } from "./api.js";
import { card, el } from "./dom.js";
import { toast } from "./dialog.js";
import { GROUPS, plain, priceText, textOf, Unreadable, valueOf } from "./sale_fields.js";

// What the gateway found odd in a sale that was just made, for the form that comes next.
let doubts = [];

export function saleForm() {
  const [, name] = location.hash.slice(1).split("/");
  const id = name ? decodeURIComponent(name) : "";
  const root = el("div");
  const back = el("a", { href: id ? `#sales/${encodeURIComponent(id)}` : "#sales" }, "back");
  const title = id ? `Edit sale ${id}` : "New sale";
  const show = (...body) => root.replaceChildren(card(title, back, ...body));
  const load = async (said) => {
    show(el("p", { cls: "quiet", text: "Loading …" }));
    try {
      show(form(await look(`/sales/${encodeURIComponent(id)}`, parseJson), said, load));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      show(el("p", { role: "alert", text: error.message }));
    }
  };
  if (id) load(doubts);
  else show(form(null, []));
  doubts = [];
  return { root, update() {} };
}

function form(sale, said, load) {
  const fields = GROUPS.map(([legend, group]) => [legend, group.filter((f) => !(sale && f.once)).map((f) => made(f, sale))]);
  const all = Object.fromEntries(fields.flatMap(([, group]) => group).map((each) => [each.field.name, each]));
  const [first, second, ...rest] = fields.map(([legend, group]) => el("fieldset", {}, el("legend", { text: legend }), group.map((each) => each.root)));
  const wrong = el("div", { cls: "alert", role: "alert", hidden: true });
  const save = el("button", { type: "submit", cls: "main", disabled: !mayChange() }, sale ? "Save the changes" : "Make the sale");
  const node = el("form", { cls: "form", novalidate: true },
    mayChange() ? null : el("p", { text: "You may look, and change nothing." }),
    notices(said),
    el("div", { cls: "grid" }, first, second, el("div", { cls: "form" }, rest)),
    wrong, el("div", { cls: "actions" }, save));
  follow(all);
  node.addEventListener("submit", async (event) => {
    event.preventDefault();
    for (const each of Object.values(all)) each.say("");
    wrong.hidden = true;
    const terms = read(all, sale);
    if (!terms) return;
    save.disabled = true;
    try {
      done(await change(sale ? `/sales/${encodeURIComponent(sale.sale_id)}/edit` : "/sales", terms), sale, load);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      refuse(error, all, wrong);
    } finally {
      save.disabled = false;
    }
  });
  return node;
}

// One field with its label, its hint and what is wrong with it.
function made(field, sale) {
  const id = `field-${field.name}`;
  const text = textOf(field, sale);
  const shared = { id, name: field.name, "aria-describedby": `${id}-hint ${id}-wrong`, autocomplete: "off", disabled: Boolean(field.opened && sale?.was_opened) };
  const input = field.choices
    ? el("select", shared, field.choices.map(([value, words]) => el("option", { value, text: words, selected: value === text })))
    : el(field.area ? "textarea" : "input", { ...shared, ...(field.area ? { rows: 4, spellcheck: "false" } : { type: "text" }), ...field.attributes, "aria-required": field.choices || "none" in field ? false : "true" });
  if (!field.choices) input.value = text;
  const hint = el("div", { cls: "hint", id: `${id}-hint`, text: (input.disabled ? field.opened : field.hint) ?? "" });
  const wrong = el("div", { cls: "wrong", id: `${id}-wrong` });
  const say = (words) => {
    wrong.textContent = words;
    if (words) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  const root = el("div", {}, el("label", { for: id, text: field.label }), input, hint, wrong);
  // The text as the browser has it: it may write a time in another way.
  return { field, input, hint, say, root, before: input.value };
}

// What follows from a field while it is typed.
function follow({ hidden, announce_at, price_cents, currency }) {
  const seen = () => { announce_at.root.hidden = hidden.input.value !== "until"; };
  const price = () => {
    const text = priceText(price_cents.input.value.trim(), currency.input.value.trim());
    price_cents.hint.textContent = text ? `That is ${text}.` : price_cents.field.hint;
  };
  hidden.input.addEventListener("change", seen);
  for (const each of [price_cents, currency]) each.input.addEventListener("input", price);
  seen();
  price();
}

// Return the terms to send, of a sale that there is those that changed; null if some cannot be read.
function read(all, sale) {
  const terms = {};
  const bad = [];
  const { hidden, announce_at, ...others } = all;
  const take = ({ field, input, say }) => {
    try {
      if (input.validity.badInput) throw new Unreadable("give a date and a time");
      const value = valueOf(field, input.value.trim(), !sale);
      if (value !== undefined) terms[field.name] = value;
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      say(error.message);
      bad.push(input);
    }
  };
  for (const each of Object.values(others)) {
    const same = each.input.value === each.before && !each.input.validity.badInput;
    if (!each.input.disabled && !(sale && same)) take(each);
  }
  const until = hidden.input.value === "until";
  if (!sale || hidden.input.value !== hidden.before || (until && announce_at.input.value !== announce_at.before)) {
    terms.hidden = hidden.input.value !== "shown";
    terms.announce_at = null;
    const { none, ...needed } = announce_at.field;
    if (until) take({ ...announce_at, field: needed });
  }
  bad[0]?.focus();
  return bad.length ? null : terms;
}

// Say what the gateway refused: at the field at fault, or below all of them.
function refuse(problem, all, wrong) {
  const at = all[problem.field];
  if (at && !at.root.hidden) {
    at.say(plain(problem.message));
    at.input.focus();
    return;
  }
  wrong.textContent = problem.field ? `${problem.field}: ${plain(problem.message)}` : problem.message;
  wrong.hidden = false;
  wrong.scrollIntoView({ block: "nearest" });
}

// With doubts, the form of the sale as it is now comes next, so that they can be mended there.
function done(saved, sale, load) {
  const here = encodeURIComponent(saved.sale_id);
  toast(sale ? `Sale ${saved.sale_id} is changed.` : `Sale ${saved.sale_id} is made. Open it when it is ready.`);
  if (!saved.warnings.length) location.hash = `#sales/${here}`;
  else if (sale) load(saved.warnings);
  else {
    doubts = saved.warnings;
    location.hash = `#edit-sale/${here}`;
  }
}

function notices(lines) {
  if (!lines.length) return null;
  return el("div", { cls: "alert warn", role: "status" },
    el("strong", { text: "It is saved. Look again at:" }), lines.map((line) => el("div", { text: line })));
}
