// The console: sign in, then one view at a time, all fed by the same snapshots.

import * as api from "./api.js";
import * as live from "./live.js";
import { el, fill, pill } from "./dom.js";
import { attempt } from "./dialog.js";
import { showAlerts } from "./alerts.js";
import { signInForm } from "./sign_in.js";
import { overview } from "./view_overview.js";
import { sales } from "./view_sales.js";
import { saleForm } from "./view_sale_form.js";
import { work } from "./view_work.js";
import { letters } from "./view_letters.js";
import { payments } from "./view_payments.js";
import { invariants } from "./view_invariants.js";
import { trail } from "./view_trail.js";

// Each view is called with no argument and returns {root, update(changed), end()}.
const VIEWS = {
  overview: ["Overview", overview],
  sales: ["Sales", sales],
  work: ["Consumers", work],
  letters: ["Dead letters", letters, () => sum(live.state.dead?.open)],
  payments: ["Payments", payments, () => (live.state.parked?.length ?? 0) + (live.state.cards?.payments ?? 0)],
  invariants: ["Invariants", invariants, () => live.state.invariants?.lights.filter((l) => l.state === "broken").length],
  trail: ["Processes and audit", trail],
};
// Forms: each address is a page of its own, and no other page is shown until it is left.
const FORMS = { "new-sale": ["New sale", saleForm, "sales"], "edit-sale": ["Edit a sale", saleForm, "sales"] };
const sum = (counts) => Object.values(counts ?? {}).reduce((all, one) => all + one, 0);

const top_ = document.getElementById("top");
const main = document.getElementById("main");
const stores = el("div", { cls: "actions", "aria-label": "Stores", role: "group" });
const menu = el("ul");
let view = null;
let name = "";
let menuName = "";

setTheme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
api.onEnd(() => showSignIn("The session is over. Sign in again."));
addEventListener("hashchange", () => api.current() && showView());
live.listen(update);
api.resume().then(showConsole, () => showSignIn());

function showSignIn(said = "") {
  live.disconnect();
  view?.end?.();
  view = null;
  document.getElementById("alerts").replaceChildren();
  top_.replaceChildren(el("div", { cls: "bar" }, el("h1", { text: "Seckill console" }), el("span", { cls: "grow" }), themeButton()));
  main.replaceChildren(signInForm(said, showConsole));
  main.querySelector("input[type=password]")?.focus();
}

function showConsole() {
  const session = api.current();
  const who = session.name || "signed in";
  const out = el("button", { onclick: () => attempt(out, "Signed out.", () => api.signOut().then(() => showSignIn())) }, "Sign out");
  top_.replaceChildren(
    el("div", { cls: "bar" },
      el("h1", { text: "Seckill console" }), stores, el("span", { cls: "grow" }),
      session.may_change ? null : pill("warn", "look only"),
      el("span", { cls: "quiet small", text: who }), themeButton(), out),
    el("nav", { "aria-label": "Views" }, menu),
  );
  live.connect();
  showView();
}

function showView() {
  const wanted = location.hash.slice(1).split("/")[0];
  const form = FORMS[wanted];
  const next = form ? location.hash : VIEWS[wanted] ? wanted : "overview";
  if (next !== name || !view) {
    view?.end?.();
    name = next;
    const [title, make] = form ?? VIEWS[name];
    view = make();
    main.replaceChildren(...[view.root].flat());
    document.title = `${title} · Seckill console`;
  }
  menuName = form ? form[2] : name;
  update(new Set(["whole", "hash"]));
  menu.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

function update(changed) {
  if (!api.current()) return;
  if (changed.has("closed")) api.resume().catch(() => showSignIn("The session is over. Sign in again."));
  fill(menu, [menuName, Object.values(VIEWS).map(([, , count]) => count?.())], menuItems);
  const found = live.state.stores ?? [];
  fill(stores, [live.state.connected, found.map((s) => s.well)], () => [
    live.state.connected ? null : pill("bad", "no connection"),
    ...found.map((s) => pill(s.well ? "good" : "bad", `${s.name} ${s.well ? "works" : "fails"}`)),
  ]);
  showAlerts(document.getElementById("alerts"));
  view?.update(changed);
}

function menuItems() {
  return Object.entries(VIEWS).map(([key, [title, , count]]) => {
    const waiting = count?.() || 0;
    const link = el("a", { href: `#${key}`, "aria-current": key === menuName ? "page" : false }, title);
    if (waiting) link.append(el("span", { cls: "count", text: `(${waiting})` }));
    return el("li", {}, link);
  });
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

function themeButton() {
  const flip = () => {
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    view?.update(new Set(["whole", "theme"]));
  };
  return el("button", { onclick: flip, "aria-label": "Change between dark and light" }, "◐");
}
