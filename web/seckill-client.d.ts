/** What went wrong. Compare `code`: the gateway's, or `network` or `timeout` without an answer. */
export class SeckillError extends Error {
    /**
     * @param {string} code
     * @param {{ status?: number, detail?: string, field?: string, retryAfter?: number | null,
     *   requestId?: string, cause?: unknown }} [about]
     */
    constructor(code: string, { status, detail, field, retryAfter, requestId, cause }?: {
        status?: number;
        detail?: string;
        field?: string;
        retryAfter?: number | null;
        requestId?: string;
        cause?: unknown;
    });
    code: string;
    /** The HTTP status; 0 without an answer. */
    status: number;
    detail: string;
    /** The value at fault. */
    field: string;
    /** Seconds after which the same call may succeed; null where that is not known. */
    retryAfter: number | null;
    /** Names the request to the shop's support. */
    requestId: string;
    /** Whether the same call may succeed later, with nothing changed. */
    get mayRepeat(): boolean;
}
/** Keeps what the answers say of the server's clock: an interval that holds its offset. */
export class ServerClock {
    /** @param {() => number} [now] the device's clock */
    constructor(now?: () => number);
    deviceNow: () => number;
    /** The server's time, in Unix milliseconds; the device's before the first answer. */
    now(): number;
    /** How far `now()` may be off, in milliseconds. */
    get errorMs(): number;
    /**
     * Learn from an answer: `serverTime` was written between `sentAt` and now, and the answer may be
     * a copy that is `staleMs` old. Intervals are intersected; one that contradicts, after the
     * device's clock was set, starts anew.
     * @param {string} serverTime @param {number} sentAt @param {number} [staleMs]
     */
    learn(serverTime: string, sentAt: number, staleMs?: number): void;
    #private;
}
export class SeckillClient {
    /**
     * @param {object} options
     * @param {string} options.url where the gateway is
     * @param {Login} [options.login] gives the shop's login token; asked anew when it is refused
     * @param {typeof fetch} [options.fetch]
     * @param {() => number} [options.random]
     * @param {() => number} [options.now]
     */
    constructor({ url, login, fetch, random, now }: {
        url: string;
        login?: Login | undefined;
        fetch?: typeof globalThis.fetch | undefined;
        random?: (() => number) | undefined;
        now?: (() => number) | undefined;
    });
    clock: ServerClock;
    /** The server's time, in Unix milliseconds. */
    now(): number;
    /** Read a sale. @param {string} saleId @param {CallOptions} [options] @returns {Promise<Sale>} */
    sale(saleId: string, options?: CallOptions): Promise<Sale>;
    /**
     * Get a ticket, as soon as there are any, and do the work that the sale asks for.
     * @param {string} saleId
     * @param {CallOptions & { onProgress?: (hashes: number, bits: number) => void }} [options]
     * @returns {Promise<string>} the ticket, which `grab` finds by itself
     */
    prepare(saleId: string, options?: CallOptions & {
        onProgress?: (hashes: number, bits: number) => void;
    }): Promise<string>;
    /**
     * Reserve units: wait for the opening, send the grab, send it again until it is answered.
     * @param {string} saleId
     * @param {CallOptions & { quantity?: number, waitForUnits?: boolean, onSale?: (sale: Sale) => void,
     *   onProgress?: (hashes: number, bits: number) => void }} [options] with `waitForUnits`, sold
     *   out is no answer: units that come back are grabbed, and `onSale` hears of each look
     * @returns {Promise<Grabbed>}
     */
    grab(saleId: string, options?: CallOptions & {
        quantity?: number;
        waitForUnits?: boolean;
        onSale?: (sale: Sale) => void;
        onProgress?: (hashes: number, bits: number) => void;
    }): Promise<Grabbed>;
    /** Return the buyer's latest order of a sale; null without one. @param {string} saleId @param {CallOptions} [options] @returns {Promise<Order | null>} */
    myOrder(saleId: string, options?: CallOptions): Promise<Order | null>;
    /** Read an order. @param {string} orderId @param {CallOptions} [options] @returns {Promise<Order>} */
    order(orderId: string, options?: CallOptions): Promise<Order>;
    /**
     * Follow an order: as it is, then each change, until it can change no more.
     * Streams where that works, and polls where it does not.
     * @param {string} orderId @param {CallOptions} [options] @returns {AsyncGenerator<Order, void>}
     */
    watch(orderId: string, options?: CallOptions): AsyncGenerator<Order, void>;
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
    pay(orderId: string, how?: {
        method?: "wallet" | "card";
        coupon?: string;
        payment_method?: string;
        return_url?: string;
    }, options?: CallOptions): Promise<Order>;
    /** Cancel an order that is not paid. @param {string} orderId @param {CallOptions} [options] @returns {Promise<Order>} */
    cancel(orderId: string, options?: CallOptions): Promise<Order>;
    /**
     * Return a URL for an `EventSource` of one's own. It is good for half a minute: when the source
     * closes itself, ask for another. `watch` needs none.
     * @param {string} orderId @param {CallOptions} [options] @returns {Promise<string>}
     */
    streamUrl(orderId: string, options?: CallOptions): Promise<string>;
    /**
     * Solve a challenge, in a worker where there are any.
     * @param {{ challenge: string, bits: number }} work
     * @param {CallOptions & { onProgress?: (hashes: number, bits: number) => void }} [options]
     * @returns {Promise<string>}
     */
    solve({ challenge, bits }: {
        challenge: string;
        bits: number;
    }, options?: CallOptions & {
        onProgress?: (hashes: number, bits: number) => void;
    }): Promise<string>;
    #private;
}
export type CallOptions = {
    signal?: AbortSignal;
    onWait?: (ms: number, error: SeckillError) => void;
};
export type Login = (options: {
    refresh: boolean;
}) => string | Promise<string>;
export type Sale = {
    sale_id: string;
    state: "created" | "open" | "paused" | "closed";
    /**
     * in the smallest unit of the currency
     */
    price_cents: number;
    /**
     * as ISO 4217 names it
     */
    currency: string;
    /**
     * how many digits of it are behind the point
     */
    currency_digits: number;
    name?: string | null | undefined;
    picture_url?: string | null | undefined;
    per_order_max: number;
    opens_at: string | null;
    closes_at: string | null;
    tickets_from?: string | null | undefined;
    /**
     * when an unpaid order may give units back
     */
    units_back_from?: string | null | undefined;
    payment_window_s: number;
    proof_bits: number;
    server_time: string;
    sold_out: boolean;
    remaining: number | null;
};
export type Order = {
    order_id: string;
    sale_id: string;
    status: "queued" | "pending" | "paying" | "paid" | "cancelled" | "rejected" | "refunding" | "refunded";
    quantity: number;
    /**
     * in the smallest unit of the currency
     */
    amount_cents: number;
    currency?: string | undefined;
    reason?: string | undefined;
    pay_by?: string | undefined;
    next_poll_ms?: number | undefined;
    /**
     * where the buyer has to go before the bank decides
     */
    action?: {
        type: string;
        url: string;
    } | undefined;
};
export type Grabbed = {
    order_id: string;
    status: "queued" | "yours";
    next_poll_ms?: number;
};
