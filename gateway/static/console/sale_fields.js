// The terms of a sale as fields of a form: their words, and how a text becomes a value and back.
// The gateway checks the values; here is refused only what cannot be sent.

import { parseJson } from "./api.js";

export class Unreadable extends Error {}

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const TIME_HINT = `By the clock of ${zone}.`;

// Kinds: how a value is read from a text, and written. An empty text is null.
const number = (words) => (text) => {
  if (!/^[-+]?\d+$/.test(text)) throw new Unreadable(words);
  return Number(text);
};
const whole = number("give a whole number");
const cents = number("give a whole number of the smallest unit: 1999 for 19.99 EUR");
const time = (text) => {
  const at = new Date(text); // without a zone: by the clock of this browser
  if (Number.isNaN(at.getTime())) throw new Unreadable("give a date and a time");
  return at.toISOString();
};
const json = (text) => {
  let found = null;
  try {
    found = parseJson(text);
  } catch (error) {
    throw new Unreadable(`give a JSON object, such as {"colour": "red"}: ${error.message}`);
  }
  if (found === null || Array.isArray(found) || typeof found !== "object") throw new Unreadable('give a JSON object, such as {"colour": "red"}');
  return found;
};
const line = (text) => text;

const two = (part) => String(part).padStart(2, "0");
function local(iso) {
  const at = new Date(iso);
  const seconds = at.getSeconds() ? `:${two(at.getSeconds())}` : "";
  const day = `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day}T${two(at.getHours())}:${two(at.getMinutes())}${seconds}`;
}

const NUMBER = { inputmode: "numeric" };
const TIME = { type: "datetime-local", step: "1", max: "9999-12-30T23:59:59" };

// A field: its name in the API, its words, how it is read, and `none`: what an empty one stands for
// (undefined: it is not sent). Without `none` it is needed. `once`: it never changes; `opened`: what
// to say of it, where the sale is opened and it no longer changes here.
export const GROUPS = [
  ["What is sold", [
    { name: "sale_id", label: "Id", read: line, hint: "In every link, for good: 1 to 64 of A-Z a-z 0-9 _ . -", once: true },
    { name: "name", label: "Name", read: line, none: null, hint: "What buyers read as its name." },
    { name: "sku", label: "SKU", read: line, none: null, hint: "The shop's own number of what is sold." },
    { name: "picture_url", label: "Picture", read: line, none: null, hint: "An https address of a picture.", attributes: { inputmode: "url" } },
    { name: "metadata", label: "Metadata", read: json, none: {}, hint: "A JSON object for the sale's page; buyers can read it.", area: true },
  ]],
  ["Price and units", [
    { name: "price_cents", label: "Price of a unit, in cents", read: cents, hint: "The smallest unit of its currency.", attributes: NUMBER },
    { name: "currency", label: "Currency", read: line, none: undefined, hint: "Three letters of ISO 4217; empty: that of this installation.", attributes: { maxlength: 3, autocapitalize: "characters" } },
    { name: "stock", label: "Units for sale", read: whole, attributes: NUMBER, opened: "The sale is opened: its units change by the button of its page." },
    { name: "per_order_max", label: "Units one order may take", read: whole, value: 1, attributes: NUMBER },
    { name: "payment_window_s", label: "Seconds to pay", read: whole, value: 900, hint: "So long an unpaid order keeps its units.", attributes: NUMBER },
  ]],
  ["Times", [
    { name: "opens_at", label: "Opens at", read: time, none: null, hint: `${TIME_HINT} Empty: once it is opened.`, attributes: TIME },
    { name: "closes_at", label: "Closes at", read: time, none: null, hint: `${TIME_HINT} Empty: by an operator.`, attributes: TIME },
  ]],
  ["Buyers", [
    { name: "hidden", label: "Who sees it", choices: [["shown", "all, once it is opened"], ["hidden", "none, until it is announced"], ["until", "none, until a time"]] },
    { name: "announce_at", label: "Hidden until", read: time, none: null, hint: TIME_HINT, attributes: TIME },
    { name: "proof_bits", label: "Work before a ticket", read: whole, value: 0, hint: "In leading zero bits; each one more doubles it. 0: none.", attributes: NUMBER },
  ]],
];

// The text of a field for a sale; of a new one without.
export function textOf(field, sale) {
  if (field.name === "hidden") return !sale?.hidden ? "shown" : sale.announce_at ? "until" : "hidden";
  const value = sale ? sale[field.name === "stock" ? "total" : field.name] : field.value;
  if (value === null || value === undefined) return "";
  if (field.read === json) return Object.keys(value).length ? JSON.stringify(value, null, 2) : "";
  return field.read === time ? local(value) : String(value);
}

export function valueOf(field, text, isNew) {
  if (text !== "") return field.read(text);
  if (!("none" in field) || (field.none === undefined && !isNew)) throw new Unreadable("this is needed");
  return field.none;
}

// What the gateway says of a value in the words of its parser, in plain ones.
const PLAIN = [
  [/^Expected `int` >= (-?\d+)$/, "give $1 or more"],
  [/^Expected `int` <= (\d+)$/, "give $1 or less"],
  [/^Expected `str` of length <= (\d+)$/, "give at most $1 characters"],
  [/^Expected `str` matching regex .*$/, "give one line of text"],
];
export const plain = (text) => PLAIN.reduce((said, [pattern, words]) => said.replace(pattern, words), text);

// A price as buyers read it; "" if there is none yet.
export function priceText(text, currency) {
  if (!/^\d+$/.test(text) || !/^[A-Z]{3}$/.test(currency)) return "";
  const digits = new Intl.NumberFormat("en", { style: "currency", currency }).resolvedOptions().maximumFractionDigits;
  return `${(Number(text) / 10 ** digits).toFixed(digits)} ${currency}`;
}
