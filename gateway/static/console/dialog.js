// Questions before a change, and what became of it.

import { el } from "./dom.js";
import { Problem } from "./api.js";

export function toast(text, bad = false) {
  const made = el("div", { cls: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(made);
  setTimeout(() => made.remove(), bad ? 12000 : 5000);
}

// Do a change and report it; a button is off meanwhile.
export async function attempt(button, done, work) {
  if (button) button.disabled = true;
  try {
    const result = await work();
    toast(typeof done === "function" ? done(result) : done);
    return result;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    toast(error.message, true);
    return null;
  } finally {
    if (button) button.disabled = false;
  }
}

// Ask; resolve with the values of the fields, or null. A field is {name, label, value, required}.
export function ask({ title, text, fields = [], yes, danger = false }) {
  return new Promise((resolve) => {
    const inputs = fields.map((field) => [
      field.name,
      el("input", {
        name: field.name, value: field.value ?? "", required: field.required !== false,
        type: field.type ?? "text", min: field.min, max: field.max, autocomplete: "off",
      }),
      field.label,
    ]);
    const cancel = el("button", { type: "button", onclick: () => box.close("no") }, "Cancel");
    const confirm = el("button", { type: "submit", cls: danger ? "danger" : "main" }, yes);
    const form = el(
      "form", { method: "dialog" },
      el("h2", { text: title, id: "dialog-title" }),
      text ? el("p", { text }) : null,
      inputs.map(([, input, label]) => el("label", {}, label, input)),
      el("div", { cls: "actions" }, cancel, confirm),
    );
    const box = el("dialog", { "aria-labelledby": "dialog-title" }, form);
    form.addEventListener("submit", () => (box.returnValue = "yes"));
    box.addEventListener("close", () => {
      const values = Object.fromEntries(inputs.map(([name, input]) => [name, input.value.trim()]));
      resolve(box.returnValue === "yes" ? values : null);
      box.remove();
    });
    document.body.append(box);
    box.showModal();
  });
}
