// The form in which an operator begins a session.

import * as api from "./api.js";
import { el } from "./dom.js";

export function signInForm(said, done) {
  const token = el("input", { type: "password", name: "token", required: true, autocomplete: "current-password" });
  const name = el("input", { type: "text", name: "name", autocomplete: "username", maxlength: 40 });
  const wrong = el("p", { role: "alert", text: said });
  const button = el("button", { type: "submit", cls: "main" }, "Sign in");
  const form = el("form", {},
    el("label", {}, "Your name, for the audit trail (may be empty)", name),
    el("label", {}, "Admin token, or the token that may only look", token),
    button, wrong);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    wrong.textContent = "";
    try {
      await api.signIn(token.value, name.value.trim());
      done();
    } catch (error) {
      wrong.textContent = error.message;
      button.disabled = false;
      token.focus();
    }
  });
  return el("section", { cls: "card sign-in" },
    el("h2", { text: "Sign in" }),
    el("p", { cls: "quiet" }, "The token is that of the setting ", el("code", { text: "SECKILL_ADMIN_TOKEN" }), "; ", el("code", { text: "seckill env" }), " prints it."),
    form);
}
