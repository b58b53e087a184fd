/** The client against a fetch that answers from a list: what it sends, waits for and makes of it. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { SeckillClient, SeckillError, ServerClock } from "../seckill-client.js";

const ORDER = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e";
const soon = (ms) => new Date(Date.now() + ms).toISOString();
const json = (status, body, headers = {}) => () =>
  new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json", ...headers } });
const problem = (status, code, headers) => json(status, { code, status, detail: `it is ${code}` }, headers);
const lost = () => { throw new TypeError("fetch failed"); };
const never = (_, { signal }) => new Promise((_, reject) =>
  signal.addEventListener("abort", () => reject(signal.reason)));
const ticket = json(201, { ticket: "t1", expires_at: soon(3_600_000), server_time: soon(0), opens_at: null });
const sale = (more) => () => json(200, {
  sale_id: "s", state: "open", opens_at: null, proof_bits: 0, server_time: soon(0), remaining: 1, ...more })();
const order = (status, more = {}) => ({ order_id: ORDER, sale_id: "s", status, quantity: 1, amount_cents: 5, ...more });
const events = (...texts) => () => new Response(texts.join(""), { headers: { "Content-Type": "text/event-stream" } });
const event = (status) => `event: order\nid: ${status}\ndata: ${JSON.stringify(order(status))}\n\n`;

/** A client whose calls are answered from the list, and the calls that it made. */
function scripted(...answers) {
  const calls = [];
  const fetch = async (url, init) => {
    const answer = answers[calls.length];
    calls.push({ ...init, path: url.replace("http://gate", ""), what: `${init.method} ${url.replace("http://gate/v1", "")}` });
    assert.ok(answer, `an answer to ${calls.at(-1).what}`);
    return answer(url, init);
  };
  const client = new SeckillClient({
    url: "http://gate/", login: ({ refresh }) => (refresh ? "new" : "old"), fetch, random: () => 0,
  });
  return { client, calls };
}

const refused = (code) => (error) => error instanceof SeckillError && error.code === code;

test("a grab gets its ticket, and is sent again with it until it is answered", async () => {
  const { client, calls } = scripted(
    ticket, lost, problem(503, "unavailable", { "Retry-After": "0" }), problem(429, "rate_limited", { "Retry-After": "0" }),
    json(202, { order_id: ORDER, status: "queued", next_poll_ms: 500 }));
  const waits = [];
  const grabbed = await client.grab("s", { quantity: 2, onWait: (ms, error) => waits.push(error.code) });
  assert.equal(grabbed.order_id, ORDER);
  assert.deepEqual(calls.map((call) => call.what), ["POST /sales/s/tickets", ...Array(4).fill("POST /sales/s/grabs")]);
  assert.equal(calls[0].headers.Authorization, "Bearer old");
  assert.ok(calls.slice(1).every((call) => call.headers["Seckill-Ticket"] === "t1" && call.body === '{"quantity":2}'));
  assert.ok(calls.every((call) => call.credentials === "omit"));
  assert.deepEqual(waits, ["network", "unavailable", "rate_limited"]);
});

test("what a person has to know is thrown, with what the answer says", async () => {
  const { client } = scripted(ticket, problem(409, "sold_out", { "Request-Id": "r1" }));
  await assert.rejects(client.grab("s"), (error) => {
    assert.deepEqual([error.code, error.status, error.detail, error.retryAfter, error.requestId, error.mayRepeat],
      ["sold_out", 409, "it is sold_out", null, "r1", false]);
    return true;
  });
  const page = scripted(ticket, () => new Response("<h1>Bad Gateway</h1>", { status: 403 }));
  await assert.rejects(page.client.grab("s"), refused("http_403"));
});

test("a ticket that is refused is replaced, and a login asked for anew, once", async () => {
  const { client, calls } = scripted(
    problem(401, "unauthorized"), ticket, problem(401, "bad_ticket"), ticket, json(200, { order_id: ORDER, status: "yours" }));
  assert.equal((await client.grab("s")).status, "yours");
  assert.deepEqual(calls.map((call) => call.headers.Authorization), ["Bearer old", "Bearer new", undefined, "Bearer new", undefined]);
  const out = scripted(problem(401, "unauthorized"), problem(401, "unauthorized"));
  await assert.rejects(out.client.prepare("s"), refused("unauthorized"));
});

test("a sale that is not open yet is waited for, and sold out too where that is wanted", async () => {
  const { client, calls } = scripted(
    ticket, problem(403, "not_open", { "Retry-After": "0" }), problem(403, "not_open", { "Retry-After": "1" }),
    sale({ opens_at: soon(20) }), problem(409, "sold_out"), sale({ remaining: 1 }),
    json(202, { order_id: ORDER, status: "queued" }));
  await assert.rejects(client.grab("s"), refused("not_open"));  // 0: no time is known
  const seen = [];
  await client.grab("s", { waitForUnits: true, onSale: (each) => seen.push(each.remaining) });
  assert.deepEqual(seen, [1]);
  assert.equal(calls.length, 7);
});

test("tickets are waited for, and work is done where the sale asks for it", async () => {
  const { client, calls } = scripted(
    problem(403, "too_early", { "Retry-After": "0" }), sale({ proof_bits: 4 }), problem(403, "proof_needed"),
    json(201, { challenge: "c", bits: 4, expires_at: soon(1000) }), problem(409, "proof_used"),
    json(201, { challenge: "d", bits: 4, expires_at: soon(1000) }), ticket);
  assert.equal(await client.prepare("s"), "t1");
  assert.equal(await client.prepare("s"), "t1");  // kept
  assert.equal(JSON.parse(calls[4].body).challenge, "c");
  const { challenge, solution } = JSON.parse(calls[6].body);
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${challenge}:${solution}`));
  assert.ok(new Uint8Array(digest)[0] < 16);
});

test("watching streams each change once, and polls where a stream breaks or says too little", async () => {
  const poll = (status) => json(200, order(status, { next_poll_ms: 1 }));
  const { client, calls } = scripted(
    problem(503, "overloaded"), poll("queued"), ...Array(4).fill(poll("pending")),
    events("retry: 1\n\n", event("pending"), ":\n\n"), poll("pending"),
    events("retry: 1\n\n", event("pending"), event("paying")), poll("paid"), poll("refunded"));
  const seen = [];
  for await (const each of client.watch(ORDER)) seen.push(each.status);
  assert.deepEqual(seen, ["queued", "pending", "paying", "paid", "refunded"]);
  assert.equal(calls[0].headers.Accept, "text/event-stream");
  assert.equal(calls.filter((call) => call.path.endsWith("/events")).length, 3);
});

test("a watch ends with what cannot be waited for", async () => {
  const { client } = scripted(problem(404, "not_found"));
  await assert.rejects(client.watch(ORDER).next(), refused("not_found"));
});

test("a payment whose answer was lost is found, and a refusal thrown", async () => {
  const { client, calls } = scripted(
    lost, problem(409, "payment_in_progress"), json(200, order("paying", { next_poll_ms: 1 })),
    json(200, order("paying", { action: { type: "redirect", url: "http://bank/" } })), problem(402, "declined"),
    json(202, order("paying", { next_poll_ms: 1 })), json(200, order("pending")));
  const paying = await client.pay(ORDER, { method: "card", payment_method: "pm_1", return_url: "http://shop/" });
  assert.equal(paying.action.url, "http://bank/");
  assert.deepEqual(JSON.parse(calls[0].body), { method: "card", payment_method: "pm_1", return_url: "http://shop/" });
  for (const _ of [1, 2]) await assert.rejects(client.pay(ORDER), refused("declined"));
});

test("cancelling, the latest order, none, and a URL for a stream", async () => {
  const { client, calls } = scripted(
    json(200, order("cancelled")), json(200, order("paid")), problem(404, "not_found"), json(201, { token: "a~b" }));
  assert.equal((await client.cancel(ORDER)).status, "cancelled");
  assert.equal((await client.myOrder("s")).status, "paid");
  assert.equal(await client.myOrder("s"), null);
  assert.equal(await client.streamUrl(ORDER), `http://gate/v1/orders/${ORDER}/events?token=a~b`);
  assert.deepEqual(calls.map((call) => call.method), ["DELETE", "GET", "GET", "POST"]);
});

test("a grab that finds an order which has ended waits until its unit is back", async () => {
  const { client, calls } = scripted(
    json(200, order("cancelled")), ticket, json(200, { order_id: ORDER, status: "yours" }),
    json(202, { order_id: "another", status: "queued" }));
  await client.cancel(ORDER);
  assert.equal((await client.grab("s")).order_id, "another");
  assert.equal(calls.length, 4);
});

test("an abort ends attempts, waits and streams with the caller's reason", async () => {
  for (const answers of [[never], [problem(503, "paused", { "Retry-After": "60" })], [ticket, never]]) {
    const { client, calls } = scripted(...answers);
    const stop = new AbortController();
    const grabbing = client.grab("s", { signal: stop.signal, onWait: () => stop.abort(new Error("enough")) });
    if (answers.includes(never)) setTimeout(() => stop.abort(new Error("enough")), 5);
    await assert.rejects(grabbing, /enough/);
    assert.equal(calls.length, answers.length);
  }
  const { client } = scripted(never);
  const stop = new AbortController();
  setTimeout(() => stop.abort(new Error("enough")), 5);
  await assert.rejects(client.watch(ORDER, { signal: stop.signal }).next(), /enough/);
});

test("the clock narrows with each answer, and starts anew when the device's was set", () => {
  let device = 1_000_000;
  const clock = new ServerClock(() => device);
  assert.equal(clock.now(), device);
  const at = (ms) => new Date(ms).toISOString();
  device += 200;
  clock.learn(at(1_005_100), 1_000_000, 1_000);  // written in those 200 ms, and up to 1 s old
  assert.ok(Math.abs(clock.now() - 1_005_700) <= clock.errorMs && clock.errorMs === 600);
  device += 20;
  clock.learn(at(1_005_230), 1_000_200);
  assert.ok(clock.errorMs <= 10);
  assert.ok(Math.abs(clock.now() - 1_005_240) <= 10);
  device -= 3_600_000;
  clock.learn(at(1_006_000), device - 10);
  assert.ok(Math.abs(clock.now() - 1_006_000) <= 10);
  clock.learn("nonsense", device);
  assert.ok(clock.errorMs <= 5);
});
