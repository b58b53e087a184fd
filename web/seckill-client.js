/**
 * A client of the gateway for pages, and for node: one module, no dependencies.
 *
 *   const client = new SeckillClient({ url: "https://gate.example", login: () => session.token });
 *   await client.prepare("sneakers");                 // a ticket, as soon as there are any
 *   const { order_id } = await client.grab("sneakers"); // waits for the opening, and is safe to repeat
 *   for await (const order of client.watch(order_id)) show(order);
 *
 * What every call relies on: the gateway answers a repeat like the first call, so whatever was not
 * answered is sent again, later each time. Whatever a person has to know is a SeckillError.
 */

/** @typedef {{ signal?: AbortSignal, onWait?: (ms: number, error: SeckillError) => void }} CallOptions */
/** @typedef {(options: { refresh: boolean }) => string | Promise<string>} Login */
/**
 * @typedef {object} Sale
 * @property {string} sale_id
 * @property {"created" | "open" | "paused" | "closed"} state
 * @property {number} price_cents in the smallest unit of the currency
 * @property {string} currency as ISO 4217 names it
 * @property {number} currency_digits how many digits of it are behind the point
 * @property {string | null} [name]
 * @property {string | null} [picture_url]
 * @property {number} per_order_max
 * @property {string | null} opens_at
 * @property {string | null} closes_at
 * @property {string | null} [tickets_from]
 * @property {string | null} [units_back_from] when an unpaid order may give units back
 * @property {number} payment_window_s
 * @property {number} proof_bits
 * @property {string} server_time
 * @property {boolean} sold_out
 * @property {number | null} remaining
 */
/**
 * @typedef {object} Order
 * @property {string} order_id
 * @property {string} sale_id
 * @property {"queued" | "pending" | "paying" | "paid" | "cancelled" | "rejected" | "refunding" | "refunded"} status
 * @property {number} quantity
 * @property {number} amount_cents in the smallest unit of the currency
 * @property {string} [currency]
 * @property {string} [reason]
 * @property {string} [pay_by]
 * @property {number} [next_poll_ms]
 * @property {{ type: string, url: string }} [action] where the buyer has to go before the bank decides
 */
/** @typedef {{ order_id: string, status: "queued" | "yours", next_poll_ms?: number }} Grabbed */

/** An attempt that is not answered after this long is given up, and made again. */
const ATTEMPT_MS = 10_000;
/** So long a call is repeated while nothing answers at all. */
const PATIENCE_MS = 120_000;
/** Waits between attempts where the gateway named no time: the first at most, and the longest. */
const FIRST_WAIT_MS = 500, LONGEST_WAIT_MS = 10_000;
/** Tickets are asked for within so much of the first moment, not by all buyers in it. */
const TICKET_SPREAD_MS = 60_000;
/** Grabs that wait for the opening are sent within so much of it. */
const OPENING_SPREAD_MS = 200;
/** A stream that says nothing for so long is broken: the gateway sends something each 15 s. */
const SILENCE_MS = 40_000;
/** The first event comes at once; where it does not, something on the way holds streams back. */
const FIRST_EVENT_MS = 5_000;
/** Time between two polls where the order does not name one. */
const POLL_MS = 5_000;
/** Polls in a row before a stream is tried again. */
const POLLS_MAX = 6;
/** Time between two looks at a sale that is sold out, and when units are due to come back. */
const SOLD_OUT_POLL_MS = 6_000, UNITS_BACK_POLL_MS = 1_500;
/** So much a clock of a device is trusted to drift: 100 ppm. */
const DRIFT = 1e-4;

const FINAL = new Set(["cancelled", "rejected", "refunded"]);

/** What went wrong. Compare `code`: the gateway's, or `network` or `timeout` without an answer. */
export class SeckillError extends Error {
  /**
   * @param {string} code
   * @param {{ status?: number, detail?: string, field?: string, retryAfter?: number | null,
   *   requestId?: string, cause?: unknown }} [about]
   */
  constructor(code, { status = 0, detail = "", field = "", retryAfter = null, requestId = "", cause } = {}) {
    super(detail ? `${code}: ${detail}` : code, { cause });
    this.name = "SeckillError";
    this.code = code;
    /** The HTTP status; 0 without an answer. */
    this.status = status;
    this.detail = detail;
    /** The value at fault. */
    this.field = field;
    /** Seconds after which the same call may succeed; null where that is not known. */
    this.retryAfter = retryAfter;
    /** Names the request to the shop's support. */
    this.requestId = requestId;
  }

  /** Whether the same call may succeed later, with nothing changed. */
  get mayRepeat() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500
      || this.code === "queued";
  }
}

/** Keeps what the answers say of the server's clock: an interval that holds its offset. */
export class ServerClock {
  #least = -Infinity;
  #most = Infinity;
  #takenAt = 0;

  /** @param {() => number} [now] the device's clock */
  constructor(now = Date.now) {
    this.deviceNow = now;
  }

  /** The server's time, in Unix milliseconds; the device's before the first answer. */
  now() {
    const known = Number.isFinite(this.#least);
    return this.deviceNow() + (known ? (this.#least + this.#most) / 2 : 0);
  }

  /** How far `now()` may be off, in milliseconds. */
  get errorMs() {
    return (this.#most - this.#least) / 2;
  }

  /**
   * Learn from an answer: `serverTime` was written between `sentAt` and now, and the answer may be
   * a copy that is `staleMs` old. Intervals are intersected; one that contradicts, after the
   * device's clock was set, starts anew.
   * @param {string} serverTime @param {number} sentAt @param {number} [staleMs]
   */
  learn(serverTime, sentAt, staleMs = 0) {
    const server = Date.parse(serverTime), now = this.deviceNow();
    if (Number.isNaN(server) || now < sentAt) return;
    const drift = Math.max(0, now - this.#takenAt) * DRIFT;
    const least = Math.max(this.#least - drift, server - now);
    const most = Math.min(this.#most + drift, server - sentAt + staleMs);
    [this.#least, this.#most] = least <= most
      ? [least, most]
      : [server - now, server - sentAt + staleMs];
    this.#takenAt = now;
  }
}

export class SeckillClient {
  #login;
  #fetch;
  #random;
  #url;
  /** @type {Map<string, { ticket: string, expiresAt: number }>} */
  #tickets = new Map();
  /** @type {Map<string, Sale>} */
  #sales = new Map();
  /** @type {Set<string>} */
  #ended = new Set();

  /**
   * @param {object} options
   * @param {string} options.url where the gateway is
   * @param {Login} [options.login] gives the shop's login token; asked anew when it is refused
   * @param {typeof fetch} [options.fetch]
   * @param {() => number} [options.random]
   * @param {() => number} [options.now]
   */
  constructor({ url, login, fetch = globalThis.fetch.bind(globalThis), random = Math.random, now }) {
    this.#url = url.replace(/\/+$/, "");
    this.#login = login;
    this.#fetch = fetch;
    this.#random = random;
    this.clock = new ServerClock(now);
  }

  /** The server's time, in Unix milliseconds. */
  now() {
    return this.clock.now();
  }

  /** Read a sale. @param {string} saleId @param {CallOptions} [options] @returns {Promise<Sale>} */
  async sale(saleId, options = {}) {
    const sentAt = this.clock.deviceNow();
    const sale = await this.#repeated(() => this.#call("GET", salePath(saleId), options), options);
    this.clock.learn(sale.server_time, sentAt, 2000);  // made once a second, kept for one
    this.#sales.set(saleId, sale);
    return sale;
  }

  /**
   * Get a ticket, as soon as there are any, and do the work that the sale asks for.
   * @param {string} saleId
   * @param {CallOptions & { onProgress?: (hashes: number, bits: number) => void }} [options]
   * @returns {Promise<string>} the ticket, which `grab` finds by itself
   */
  async prepare(saleId, options = {}) {
    const kept = this.#tickets.get(saleId);
    if (kept && kept.expiresAt > this.now() + 5_000) return kept.ticket;
    let proof = await this.#proof(saleId, (this.#sales.get(saleId)?.proof_bits ?? 0) > 0, options);
    for (let refused = 0; ;) {
      const sentAt = this.clock.deviceNow();
      try {
        const path = `${salePath(saleId)}/tickets`;
        const given = await this.#repeated(
          () => this.#call("POST", path, { ...options, body: proof }), options);
        this.clock.learn(given.server_time, sentAt);
        this.#tickets.set(saleId, { ticket: given.ticket, expiresAt: Date.parse(given.expires_at) });
        await this.#warmUp(saleId, given, options);
        return given.ticket;
      } catch (error) {
        if (!(error instanceof SeckillError)) throw error;
        if (error.code === "too_early") await this.#untilTickets(saleId, error, options);
        else if (/^(proof_needed|bad_proof|proof_used)$/.test(error.code) && refused++ < 3) {
          proof = await this.#proof(saleId, true, options);
        } else throw error;
      }
    }
  }

  /**
   * Reserve units: wait for the opening, send the grab, send it again until it is answered.
   * @param {string} saleId
   * @param {CallOptions & { quantity?: number, waitForUnits?: boolean, onSale?: (sale: Sale) => void,
   *   onProgress?: (hashes: number, bits: number) => void }} [options] with `waitForUnits`, sold
   *   out is no answer: units that come back are grabbed, and `onSale` hears of each look
   * @returns {Promise<Grabbed>}
   */
  async grab(saleId, options = {}) {
    for (let badTickets = 0; ;) {
      const ticket = await this.prepare(saleId, options);
      await this.#untilOpening(saleId, options);
      try {
        const call = { ...options, ticket, body: { quantity: options.quantity ?? 1 } };
        const grabbed = await this.#repeated(
          () => this.#call("POST", `${salePath(saleId)}/grabs`, call), options);
        if (!this.#ended.has(grabbed.order_id)) return grabbed;
        // The buyer's order has ended, and its unit is on its way back: for that moment, the
        // gateway still answers with it.
        await sleep(this.#spread(POLL_MS / 5), options.signal);
      } catch (error) {
        if (!(error instanceof SeckillError)) throw error;
        if (error.code === "bad_ticket" && badTickets++ < 2) this.#tickets.delete(saleId);
        else if (error.code === "not_open" && error.retryAfter) {
          const sale = await this.sale(saleId, options);  // then the wait is to the millisecond
          if (!sale.opens_at || Date.parse(sale.opens_at) < this.now()) await this.#later(error, options);
        }
        else if (error.code === "sold_out" && options.waitForUnits) await this.#untilUnits(saleId, options);
        else throw error;
      }
    }
  }

  /** Return the buyer's latest order of a sale; null without one. @param {string} saleId @param {CallOptions} [options] @returns {Promise<Order | null>} */
  async myOrder(saleId, options = {}) {
    try {
      const path = `${salePath(saleId)}/orders/mine`;
      return await this.#repeated(() => this.#call("GET", path, options), options);
    } catch (error) {
      if (error instanceof SeckillError && error.code === "not_found") return null;
      throw error;
    }
  }

  /** Read an order. @param {string} orderId @param {CallOptions} [options] @returns {Promise<Order>} */
  async order(orderId, options = {}) {
    return this.#repeated(() => this.#call("GET", orderPath(orderId), options), options);
  }

  /**
   * Follow an order: as it is, then each change, until it can change no more.
   * Streams where that works, and polls where it does not.
   * @param {string} orderId @param {CallOptions} [options] @returns {AsyncGenerator<Order, void>}
   */
  async *watch(orderId, options = {}) {
    let seen = "", waitMs = 0;
    for (let polls = 0; ;) {
      try {
        if (polls === 0) for await (const event of this.#stream(orderId, options)) {
          if ("retryMs" in event) waitMs = event.retryMs;
          else {
            if (keyOf(event.order) !== seen) yield event.order;
            seen = keyOf(event.order);
            if (this.#isFinal(event.order)) return;
            if (isUndecided(event.order)) {
              polls = 1;
              break;
            }
          }
        }
      } catch (error) {
        if (options.signal?.aborted || !(error instanceof SeckillError && error.mayRepeat)) throw error;
        polls = 1;
      }
      await sleep(waitMs || this.#spread(1_000), options.signal);
      const order = await this.order(orderId, options);
      if (keyOf(order) !== seen) yield order;
      seen = keyOf(order);
      if (this.#isFinal(order)) return;
      if (polls) polls = (polls + 1) % POLLS_MAX;
      waitMs = order.next_poll_ms ?? this.#spread(POLL_MS);
    }
  }

  /**
   * Pay an order, and wait until that is decided. Of a card payment the order may come back as
   * `paying`, with an `action`: send the buyer to its `url`, from where they come back to
   * `return_url`. `watch` says how it ends.
   * @param {string} orderId
   * @param {{ method?: "wallet" | "card", coupon?: string, payment_method?: string,
   *   return_url?: string }} [how]
   * @param {CallOptions} [options]
   * @returns {Promise<Order>}
   */
  async pay(orderId, how = {}, options = {}) {
    const call = { ...options, body: { method: "wallet", ...how } };
    /** @type {Order | undefined} */
    let order;
    try {
      const path = `${orderPath(orderId)}/payments`;
      order = await this.#repeated(() => this.#call("POST", path, call), options);
    } catch (error) {
      // An attempt whose answer was lost is under way: the order says how it stands.
      if (!(error instanceof SeckillError && error.code === "payment_in_progress")) throw error;
    }
    for (const since = this.clock.deviceNow(); ;) {
      if (order && (!isUndecided(order) || this.clock.deviceNow() - since > PATIENCE_MS)) break;
      if (order) await sleep(order.next_poll_ms ?? this.#spread(1_000), options.signal);
      order = await this.order(orderId, options);
    }
    if (order.status !== "pending") return order;
    throw new SeckillError("declined", { status: 402, detail: "the payment was not accepted" });
  }

  /** Cancel an order that is not paid. @param {string} orderId @param {CallOptions} [options] @returns {Promise<Order>} */
  async cancel(orderId, options = {}) {
    const order = await this.#repeated(() => this.#call("DELETE", orderPath(orderId), options), options);
    this.#isFinal(order);
    return order;
  }

  /**
   * Return a URL for an `EventSource` of one's own. It is good for half a minute: when the source
   * closes itself, ask for another. `watch` needs none.
   * @param {string} orderId @param {CallOptions} [options] @returns {Promise<string>}
   */
  async streamUrl(orderId, options = {}) {
    const path = `${orderPath(orderId)}/stream-tokens`;
    const { token } = await this.#repeated(() => this.#call("POST", path, options), options);
    return `${this.#url}${orderPath(orderId)}/events?token=${encodeURIComponent(token)}`;
  }

  /**
   * Solve a challenge, in a worker where there are any.
   * @param {{ challenge: string, bits: number }} work
   * @param {CallOptions & { onProgress?: (hashes: number, bits: number) => void }} [options]
   * @returns {Promise<string>}
   */
  async solve({ challenge, bits }, options = {}) {
    const { signal, onProgress } = options;
    if (typeof Worker === "undefined") return solveHere(challenge, bits, signal);
    // A worker of another origin is refused by browsers; of a Blob it is the page's own.
    const script = await this.#repeated(() => this.#call("GET", "/proof-worker.js", options), options);
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const worker = new Worker(url);
    try {
      return await new Promise((resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
        worker.onerror = (event) =>
          reject(new SeckillError("no_worker", { detail: event.message || "worker-src blob:" }));
        worker.onmessage = ({ data }) =>
          data.solution ? resolve(data.solution) : onProgress?.(data.hashes, bits);
        worker.postMessage({ challenge, bits });
      });
    } finally {
      worker.terminate();
      URL.revokeObjectURL(url);
    }
  }

  /** @param {string} saleId @param {boolean} needed @param {CallOptions} options */
  async #proof(saleId, needed, options) {
    if (!needed) return undefined;
    const path = `${salePath(saleId)}/challenges`;
    for (;;) {
      try {
        const work = await this.#repeated(() => this.#call("POST", path, options), options);
        return { challenge: work.challenge, solution: await this.solve(work, options) };
      } catch (error) {
        if (!(error instanceof SeckillError && error.code === "too_early")) throw error;
        await this.#untilTickets(saleId, error, options);
      }
    }
  }

  /** @param {string} saleId @param {SeckillError} error @param {CallOptions} options */
  async #untilTickets(saleId, error, options) {
    const { opens_at, tickets_from } = await this.sale(saleId, options);
    const window = opens_at && tickets_from ? Date.parse(opens_at) - Date.parse(tickets_from) : 0;
    const spread = this.#random() * Math.min(TICKET_SPREAD_MS, window / 2);
    const waitMs = (error.retryAfter ?? 1) * 1000 + spread;
    options.onWait?.(waitMs, error);
    await sleep(waitMs, options.signal);
  }

  /**
   * Let the browser ask ahead what a page of another origin may send: at the opening, that question
   * would be one more round trip for everybody at once. GET is no grab, whatever happens.
   * @param {string} saleId @param {{ ticket: string, opens_at?: string | null }} given
   * @param {CallOptions} options
   */
  async #warmUp(saleId, { ticket, opens_at }, options) {
    const here = globalThis.location?.origin;
    if (!here || new URL(this.#url, here).origin === here) return;
    if (!opens_at || Date.parse(opens_at) < this.now() + 5_000) return;
    const call = { ...options, ticket, type: true };
    await this.#call("GET", `${salePath(saleId)}/grabs`, call).catch(() => {});
  }

  /** @param {string} saleId @param {CallOptions} options */
  async #untilOpening(saleId, options) {
    const opensAt = () => Date.parse(this.#sales.get(saleId)?.opens_at ?? "") || 0;
    if (opensAt() <= this.now()) return;
    // Shortly before, look again: the clock, a connection that is open, an opening put off.
    const look = opensAt() - this.now() - 5_000 - this.#random() * 10_000;
    if (look > 0) {
      await sleep(look, options.signal);
      await this.sale(saleId, options);
    }
    const wait = opensAt() - this.now();
    if (wait > 0) await sleep(wait + this.#random() * OPENING_SPREAD_MS, options.signal);
    if (opensAt() > this.now()) await this.#untilOpening(saleId, options);
  }

  /** @param {string} saleId @param {CallOptions & { onSale?: (sale: Sale) => void }} options */
  async #untilUnits(saleId, options) {
    for (;;) {
      const sale = await this.sale(saleId, options);
      options.onSale?.(sale);
      if (sale.state === "closed") throw new SeckillError("closed", { status: 410 });
      if (sale.remaining) return sleep(this.#random() * 500, options.signal);
      const due = sale.units_back_from ? Date.parse(sale.units_back_from) - this.now() : Infinity;
      const poll = this.#spread(due < 0 ? UNITS_BACK_POLL_MS : SOLD_OUT_POLL_MS);
      await sleep(Math.min(poll, Math.max(due, 0) + this.#spread(UNITS_BACK_POLL_MS)), options.signal);
    }
  }

  /**
   * Repeat a call until it is answered; what needs a person is thrown.
   * @template T @param {() => Promise<T>} attempt @param {CallOptions} options @returns {Promise<T>}
   */
  async #repeated(attempt, options) {
    let since = this.clock.deviceNow(), refresh = false;
    for (let tries = 0; ; tries++) {
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof SeckillError)) throw error;
        if (error.code === "unauthorized" && this.#login && !refresh) {
          refresh = true;
          this.#token = await this.#login({ refresh });
          continue;
        }
        if (!error.mayRepeat) throw error;
        // It has a turn, or the shop has paused: nothing is broken.
        if (error.status === 429 || error.code === "paused") since = this.clock.deviceNow();
        if (this.clock.deviceNow() - since > PATIENCE_MS) throw error;
        await this.#later(error, options, tries);
      }
    }
  }

  /** @param {SeckillError} error @param {CallOptions} options @param {number} [tries] */
  async #later(error, options, tries = 0) {
    const most = Math.min(FIRST_WAIT_MS * 2 ** tries, LONGEST_WAIT_MS);
    const waitMs = error.retryAfter === null
      ? this.#spread(most)
      : error.retryAfter * 1000 + this.#random() * FIRST_WAIT_MS;
    options.onWait?.(waitMs, error);
    await sleep(waitMs, options.signal);
  }

  /** @param {Order} order */
  #isFinal(order) {
    if (FINAL.has(order.status)) this.#ended.add(order.order_id);
    return FINAL.has(order.status);
  }

  /** Return half of it to all of it, at random. @param {number} ms */
  #spread(ms) {
    return ms * (0.5 + this.#random() / 2);
  }

  /** @type {string | undefined} */
  #token;

  /**
   * Send one request; return the JSON or the text of its answer.
   * @param {string} method @param {string} path
   * @param {{ signal?: AbortSignal, body?: object, ticket?: string, type?: boolean }} options
   * @returns {Promise<any>}
   */
  async #call(method, path, options) {
    const limit = linked(options.signal, ATTEMPT_MS);
    try {
      const response = await this.#send(method, path, options, limit.signal);
      const isJson = response.headers.get("Content-Type")?.includes("json");
      return await (isJson ? response.json() : response.text());
    } catch (error) {
      throw failure(error, options.signal);
    } finally {
      limit.end();
    }
  }

  /**
   * @param {string} method @param {string} path
   * @param {{ body?: object, ticket?: string, type?: boolean, headers?: Record<string, string> }} options
   * @param {AbortSignal} signal
   */
  async #send(method, path, { body, ticket, type, headers = {} }, signal) {
    /** @type {Record<string, string>} */
    const all = { ...headers };
    if (body || type) all["Content-Type"] = "application/json";
    if (ticket) all["Seckill-Ticket"] = ticket;
    else if (this.#login && path.startsWith("/v1/") && !/^\/v1\/sales\/[^/]+$/.test(path)) {
      this.#token ??= await this.#login({ refresh: false });
      all.Authorization = `Bearer ${this.#token}`;
    }
    // No `cache: "no-store"`: the answers say that themselves, and Chromium would then ask before
    // every request whether this page may send it.
    const response = await this.#fetch(this.#url + path, {
      method, signal, headers: all, body: body && JSON.stringify(body), credentials: "omit",
    });
    if (!response.ok) throw await refusal(response);
    return response;
  }

  /**
   * Yield the events of an order's stream, until it ends or breaks.
   * @param {string} orderId @param {CallOptions} options
   * @returns {AsyncGenerator<{ order: Order } | { retryMs: number }, void>}
   */
  async *#stream(orderId, options) {
    const limit = linked(options.signal, FIRST_EVENT_MS);
    try {
      const headers = { Accept: "text/event-stream" };
      const response = await this.#send("GET", `${orderPath(orderId)}/events`, { headers }, limit.signal);
      if (!response.body) return;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (done) return;
        limit.extend(SILENCE_MS);
        const blocks = (text + value).split("\n\n");
        text = blocks.pop() ?? "";
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
          if (fields.retry) yield { retryMs: Number(fields.retry) };
          if (fields.data) yield { order: JSON.parse(fields.data) };
        }
      }
    } catch (error) {
      throw failure(error, options.signal);
    } finally {
      limit.end();
    }
  }
}

/** @param {string} saleId */
function salePath(saleId) {
  return `/v1/sales/${encodeURIComponent(saleId)}`;
}

/** @param {string} orderId */
function orderPath(orderId) {
  return `/v1/orders/${encodeURIComponent(orderId)}`;
}

/** A payment that is under way, of which a stream will not say that the bank asks. @param {Order} order */
function isUndecided(order) {
  return order.status === "paying" && !order.action;
}

/** What of an order is news. @param {Order} order */
function keyOf({ next_poll_ms, ...order }) {
  return JSON.stringify(order);
}

/** Return the error that an answer is. @param {Response} response */
async function refusal(response) {
  const problem = await response.json().catch(() => ({}));  // a proxy's page may be no JSON
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new SeckillError(problem.code ?? `http_${response.status}`, {
    status: response.status, detail: problem.detail, field: problem.field,
    retryAfter: Number.isNaN(wait) ? null : wait,
    requestId: response.headers.get("Request-Id") ?? "",
  });
}

/** Return what a failed attempt is to its caller. @param {unknown} error @param {AbortSignal} [signal] */
function failure(error, signal) {
  if (error instanceof SeckillError) return error;
  if (signal?.aborted) return signal.reason;
  const isLate = error instanceof DOMException && error.name === "TimeoutError";
  return new SeckillError(isLate ? "timeout" : "network", { detail: String(error), cause: error });
}

/**
 * A signal that follows another one, and fires by itself in time unless it is put off.
 * (AbortSignal.any is younger than the phones of many buyers.)
 * @param {AbortSignal | undefined} signal @param {number} ms
 */
function linked(signal, ms) {
  const controller = new AbortController();
  const follow = () => controller.abort(signal?.reason);
  const expire = () => controller.abort(new DOMException("no answer in time", "TimeoutError"));
  let timer = setTimeout(expire, ms);
  if (signal?.aborted) follow();
  signal?.addEventListener("abort", follow);
  return {
    signal: controller.signal,
    /** @param {number} later */
    extend(later) {
      clearTimeout(timer);
      timer = setTimeout(expire, later);
    },
    /** End what hangs on it, too. */
    end() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", follow);
      controller.abort();
    },
  };
}

/** @param {number} ms @param {AbortSignal} [signal] @returns {Promise<void>} */
function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const wake = () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    // Timers hold 31 bits; a longer wait ends early, and its caller looks again.
    const timer = setTimeout(wake, Math.min(ms, 2 ** 31 - 1));
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Solve where there is no worker: slower. @param {string} challenge @param {number} bits @param {AbortSignal} [signal] */
async function solveHere(challenge, bits, signal) {
  const encoder = new TextEncoder();
  for (let number = 0; ; number++) {
    signal?.throwIfAborted();
    const digest = await crypto.subtle.digest("SHA-256", encoder.encode(`${challenge}:${number}`));
    if (Math.clz32(new DataView(digest).getUint32(0)) >= bits) return String(number);
  }
}
