/**
 * The page of one sale: countdown, buy, pay, cancel, and what comes back when others do not pay.
 *
 * `view` is all that the page knows; `show` changes it and draws it. Who buys and who waits is told
 * by the gateway alone: after a reload, or on another device, the page asks for the order first.
 */
import { SeckillClient, SeckillError } from "../seckill-client.js";
import config from "./config.js";
import { texts } from "./texts.js";

const HURRY_MS = 60_000;
/** Fewer are named: they hurry buyers for a reason. */
const FEW = 10;
const LIVE = ["queued", "pending", "paying", "paid", "refunding", "refunded"];

const element = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const { lang, text } = texts(query.get("lang"), navigator.languages);

const client = new SeckillClient({ url: config.gateway, login: signedIn });
const view = {
  sale: null, order: null, doing: "loading", signedOut: false, ready: false, work: null,
  busy: false, error: "", ended: "",
};
let stopping = new AbortController(), following = new AbortController();

async function signedIn() {
  const token = await config.login();
  if (!token) throw new SeckillError("unauthorized", { status: 401 });
  return token;
}

function show(change) {
  Object.assign(view, change);
  draw();
}

/* What is drawn. */

function draw() {
  const { sale } = view, seen = picture();
  if (sale) {
    document.title = sale.name ?? text.title;
    write("name", sale.name ?? sale.sale_id);
    write("price", money(sale.price_cents));
    const few = isOpen(sale) && sale.remaining > 0 && sale.remaining <= FEW && !view.order;
    write("left", few ? text.left(sale.remaining) : "");
    drawPicture(sale.picture_url);
    drawQuantity(sale);
  }
  element("state").dataset.mood = seen.mood ?? "";
  write("status", seen.status);
  write("note", [view.ended, seen.note].filter(Boolean).join(" "));
  write("timer", seen.until ? left(seen.until) : "");
  write("error", view.error);
  const about = view.order && [text.amount(view.order.quantity, money(view.order.amount_cents / view.order.quantity)),
    text.order(view.order.order_id)].join(" · ");
  write("order", about ?? "");
  drawActions(seen);
}

/** Return status, note, mood, the moment that is counted down to, and the buttons. */
function picture() {
  const { sale, order, doing } = view;
  if (doing === "missing") return { status: text.missing, mood: "bad" };
  if (!sale || doing === "loading") return { status: text.loading };
  if (order) return ofOrder(order);
  if (doing === "buying") return { status: text.buying, note: view.busy ? text.busy : "", buttons: ["stop"] };
  if (doing === "waiting") return { status: text.waiting, mood: "warn", note: mayReturn(sale), buttons: ["stop"] };
  return ofSale(sale);
}

function ofSale(sale) {
  const now = client.now(), buttons = [view.signedOut ? "signin" : "buy"];
  if (sale.state === "closed" || (sale.closes_at && Date.parse(sale.closes_at) <= now)) {
    return { status: text.closed, mood: "bad" };
  }
  if (sale.state === "paused") return { status: text.paused, mood: "warn", note: text.pausedNote };
  if (!isOpen(sale)) {
    const opensAt = Date.parse(sale.opens_at ?? "");
    const note = view.signedOut ? "" : view.ready ? text.ready : view.work ?? "";
    return { status: opensAt ? text.soon(clock(opensAt)) : text.opening, until: opensAt, note, buttons, early: true };
  }
  if (sale.remaining === 0) {
    return { status: text.soldOut, mood: "bad", note: mayReturn(sale), buttons: [view.signedOut ? "signin" : "wait"] };
  }
  return { status: text.open, mood: "good", buttons };
}

function ofOrder(order) {
  const payBy = Date.parse(order.pay_by ?? ""), busy = view.doing === "paying";
  switch (order.status) {
    case "queued":
      return { status: text.queued, mood: "good", buttons: ["cancel"] };
    case "pending": {
      const hurry = payBy - client.now() < HURRY_MS;
      return {
        status: hurry ? text.hurry : text.yours(clock(payBy)), mood: hurry ? "warn" : "good",
        note: text.payNote, until: payBy, buttons: busy ? [] : [...config.methods, "cancel"],
      };
    }
    case "paying":
      return order.action
        ? { status: text.atBank, note: text.atBankNote(clock(payBy)), mood: "warn", buttons: ["bank"], url: order.action.url }
        : { status: text.paying, note: text.payingNote };
    case "paid":
      return { status: text.paid, mood: "good" };
    default:
      return { status: text[order.status], mood: "warn" };
  }
}

function drawActions({ buttons = [], early, url }) {
  const active = document.activeElement;
  for (const each of ["signin", "buy", "wait", "bank", "card", "wallet", "stop", "cancel"]) {
    element(each).hidden = !buttons.includes(each);
    element(each).classList.toggle("main", each === buttons[0] && each !== "stop" && each !== "cancel");
  }
  element("buy").disabled = Boolean(early);
  if (url) element("bank").href = url;
  const offers = buttons.includes("buy") || buttons.includes("wait");
  element("quantity").hidden = !offers || !(view.sale?.per_order_max > 1);
  // A keyboard must not lose its place when what it stood on goes away.
  if (active?.closest?.("[hidden]")) element("status").focus();
}

function drawQuantity(sale) {
  const select = element("quantity").querySelector("select");
  const most = Math.min(sale.per_order_max, FEW);
  for (let n = select.options.length + 1; n <= most; n++) select.add(new Option(String(n)));
}

function drawPicture(url) {
  const image = element("picture").querySelector("img");
  if (url && image.src !== url) image.src = url;
  element("picture").hidden = !url;
}

/** Write a text where it differs, so that nothing is read out twice. */
function write(id, words) {
  const place = element(id);
  if (place.textContent !== words) place.textContent = words;
  if (id !== "status") place.hidden = !words;
}

function isOpen(sale) {
  return sale.state === "open" && (!sale.opens_at || Date.parse(sale.opens_at) <= client.now());
}

function mayReturn(sale) {
  const at = Date.parse(sale.units_back_from ?? "");
  return at > client.now() ? text.mayReturn(clock(at)) : text.mayReturnOnce;
}

function money(cents) {
  const { currency, currency_digits: digits } = view.sale;
  const shown = { style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(lang, shown).format(cents / 10 ** digits);
}

function clock(moment) {
  const isToday = new Date(moment).toDateString() === new Date(client.now()).toDateString();
  const style = isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(lang, style).format(moment);
}

function left(moment) {
  const seconds = Math.max(0, Math.ceil((moment - client.now()) / 1000));
  const [days, hours] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24];
  const pair = (n) => String(n).padStart(2, "0");
  const clockface = `${pair(Math.floor(seconds / 60) % 60)}:${pair(seconds % 60)}`;
  return (days ? `${days} d ` : "") + (days || hours ? `${pair(hours)}:` : "") + clockface;
}

/* What is done. */

const onWait = (_, { code, status }) =>
  show(status === 0 ? { error: text.errors[code] ?? "" } : { busy: true, error: "" });

function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof SeckillError)) throw error;
  if (error.code === "unauthorized") return show({ signedOut: true, error: text.errors.unauthorized });
  show({ error: text.errors[error.code] ?? text.errors.other(error.code, error.requestId) });
}

async function buy(waitForUnits) {
  stopping = new AbortController();
  show({ doing: waitForUnits ? "waiting" : "buying", busy: false, error: "", ended: "" });
  try {
    const quantity = Number(element("quantity").querySelector("select").value || 1);
    const options = { quantity, waitForUnits, signal: stopping.signal, onWait, onSale: (sale) => show({ sale }) };
    const { order_id } = await client.grab(config.sale, options);
    await follow(order_id);
  } catch (error) {
    // Who stops may have got one already: the answer was on its way.
    const order = stopping.signal.aborted && !view.order && await client.myOrder(config.sale).catch(() => null);
    if (order && LIVE.includes(order.status)) return follow(order.order_id).catch(fail);
    show({ doing: "offer" });
    if (error.code === "sold_out") show({ sale: { ...view.sale, remaining: 0, sold_out: true } });
    else fail(error);
  }
}

/** Show an order until it is paid, or is none any more. */
async function follow(orderId) {
  following.abort();
  following = new AbortController();
  for await (const order of client.watch(orderId, { signal: following.signal, onWait })) {
    if (!LIVE.includes(order.status)) return ended(order);
    const isBack = view.order?.status === "paying" && order.status === "pending";
    show({ order, doing: "order", ended: "", error: isBack ? text.errors.declined : "" });
    if (order.status === "paid" || order.status === "refunded") return;
  }
}

async function ended(order) {
  const why = order.reason === "expired" ? text.expired : order.status === "rejected" ? text.rejected : text.cancelled;
  show({ order: null, doing: "offer", ended: why, error: "" });
  show({ sale: await client.sale(config.sale) });
}

async function pay(method) {
  const { order } = view;
  show({ doing: "paying", error: "" });
  try {
    const back = new URL(`?sale=${encodeURIComponent(config.sale)}&lang=${lang}`, location.href).href;
    const how = method === "card" ? { return_url: back, ...await config.card(order) } : {};
    const paid = await client.pay(order.order_id, { method, ...how }, { onWait });
    show({ order: paid, doing: "order", error: "" });
    if (paid.action) location.assign(paid.action.url);
  } catch (error) {
    show({ doing: "order" });
    fail(error);
  }
}

async function cancel() {
  try {
    const order = await client.cancel(view.order.order_id, { onWait });
    following.abort();
    await ended(order);
  } catch (error) {
    fail(error);
  }
}

async function prepare() {
  try {
    const onProgress = (hashes, bits) =>
      show({ work: text.working(Math.min(99, Math.round(hashes / 2 ** bits * 50))) });
    await client.prepare(config.sale, { onProgress });
    show({ ready: true });
  } catch (error) {
    if (error.code === "unauthorized") show({ signedOut: true });
    else fail(error);
  }
}

/** Look at the sale again and again, while there is somebody to see it. */
async function watchSale() {
  for (;;) {
    const { sale } = view;
    const back = Date.parse(sale.units_back_from ?? "") - client.now();
    const opens = Date.parse(sale.opens_at ?? "") - client.now();
    let wait = view.order || sale.state === "closed" ? 60_000 : 10_000;
    if (sale.remaining === 0 && back < wait) wait = Math.max(1_000, back);
    if (opens > 0) wait = opens > 120_000 ? 60_000 : opens;
    await new Promise((resolve) => setTimeout(resolve, wait + Math.random() * 2_000));
    if (document.visibilityState === "hidden" || view.doing === "waiting") continue;
    await client.sale(config.sale).then((found) => show({ sale: found }), fail);
  }
}

async function start() {
  document.documentElement.lang = lang;
  for (const [id, words] of [["buy", text.buy], ["wait", text.wait], ["card", text.card], ["wallet", text.wallet],
    ["bank", text.bank], ["cancel", text.cancel], ["signin", text.signIn], ["stop", text.stop]]) element(id).textContent = words;
  element("quantity").querySelector("span").textContent = text.quantity;
  element("signin").href = config.signIn;
  // The usual way to pay comes first.
  for (const each of [...config.methods].reverse()) element("bank").after(element(each));
  element("actions").addEventListener("submit", (event) => {
    event.preventDefault();
    buy(false);
  });
  for (const [id, act] of [["wait", () => buy(true)], ["stop", () => stopping.abort()], ["cancel", cancel],
    ["card", () => pay("card")], ["wallet", () => pay("wallet")]]) element(id).addEventListener("click", act);
  // A page that comes out of the browser's store has streams that have ended.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  draw();
  try {
    show({ sale: await client.sale(config.sale, { onWait }) });
  } catch (error) {
    return error.code === "not_found" ? show({ doing: "missing" }) : fail(error);
  }
  setInterval(draw, 500);
  watchSale();
  const order = await client.myOrder(config.sale, { onWait }).catch((error) => {
    if (error.code === "unauthorized") show({ signedOut: true });
    else fail(error);
  });
  if (order && LIVE.includes(order.status)) return follow(order.order_id).catch(fail);
  show({ doing: "offer" });
  if (!view.signedOut) await prepare();
}

start();
