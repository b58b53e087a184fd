"""The metrics. Label values are closed sets; never a buyer or an order.

A sale is one in SALE_UNITS_LEFT alone, which is bounded and off unless it is asked for.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from seckill.hot_metrics import DerivedCounter, HotCounter, HotHistogram

_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 512, 1024)

#: Of waits at the edge: 0.25 s is a promise, and from 0.1 s on an edge that is too busy refuses.
_WAITS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)

#: Of the event loop: less than a turn that reads a full batch, up to one that health would miss.
_LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
#: Of work behind the edge: 5 s from 202 to pending is a promise.
_WORK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

GRAB_SECONDS = HotHistogram(
    "seckill_grab_seconds",
    "From a grab's bytes to its answer, by verdict; rate_limited for those that a limit refused",
    ["verdict"],
    _WAITS_S,
)
GRAB_STAGE_SECONDS = HotHistogram(
    "seckill_grab_stage_seconds",
    "Stages of grabs, of each batch as often as it has grabs: queue (parsed to called, of the"
    " oldest), call (the script), wait_publish (replied to published), confirm (by RabbitMQ),"
    " answer (until all are written), look_up (reads of holders)",
    ["stage"],
    _WAITS_S,
)
GRABS = DerivedCounter(
    "seckill_grabs",
    "Answers to grabs, without those that a limit refused",
    ["verdict"],
    lambda: {
        verdict: waits.count
        for verdict, waits in GRAB_SECONDS.distributions.items()
        if verdict != ("rate_limited",)
    },
)
GRABS_BY_AIOHTTP = Counter(
    "seckill_grabs_by_aiohttp", "Grabs that were not plain enough to be read without aiohttp"
)
GRAB_BATCH = Histogram("seckill_grab_batch_size", "Grabs in one script call", buckets=_SIZES)
IN_FLIGHT = Gauge("seckill_in_hand", "Requests that have no answer yet", ["kind"])
IN_FLIGHT_LIMIT = Gauge("seckill_in_hand_limit", "Requests that may be in flight at once", ["kind"])
RATE_LIMIT_DECISIONS = HotCounter(
    "seckill_admissions",
    "What rate limits said: leased (admitted without asking Redis), admitted, refused,"
    " shadow (let pass, would be refused), unheard (let pass, Redis is unavailable)",
    ["op", "outcome"],
)
PAYMENTS = Counter("seckill_payments", "Outcomes of payments, or why refused", ["outcome"])
CARD_PAYMENTS = Counter(
    "seckill_card_payments",
    "What became of card payments by the provider's answers: paid, cancelled, refunded, trying"
    " (came too late); given_up (to be voided), unknown (to be asked again)",
    ["outcome"],
)
CARD_PAYMENTS_UNKNOWN = Gauge(
    "seckill_card_payments_unknown", "Card payments that the provider is still to be asked about"
)
CARD_PAYMENTS_UNKNOWN_OLDEST = Gauge(
    "seckill_card_payments_unknown_oldest_age_seconds", "Since the oldest of those payments began"
)
SHOP_CALLS = HotCounter(
    "seckill_shop_calls",
    "Answers to the shop's own programs, by operation and class of status",
    ["operation", "class"],
)
SHOP_CALL_SECONDS = HotHistogram(
    "seckill_shop_call_seconds",
    "From a call of the shop's own programs to its answer, by class of status",
    ["class"],
    _WAITS_S,
)
EXTERNAL_DUE = Gauge(
    "seckill_external_payments_due", "Payments of the shop's own checkout that it must send back"
)
EXTERNAL_DUE_OLDEST = Gauge(
    "seckill_external_payments_due_oldest_age_seconds", "Since the oldest of them has been due"
)
EXTERNAL_PAYMENTS = Counter(
    "seckill_external_payments",
    "Reports of payments by the shop's own checkout: paid; why the money must go back; repeated, or"
    " reference_used (another report has the reference)",
    ["outcome"],
)
WEBHOOKS = Counter(
    "seckill_webhooks", "Webhooks of the card provider: taken, unknown_key, refused", ["outcome"]
)
LOGINS = HotCounter(
    "seckill_logins",
    "Login tokens: good, refused, unknown (the keys of the login service cannot be read)",
    ["outcome"],
)
LOGIN_KEY_READINGS = Counter(
    "seckill_login_key_readings", "Readings of SECKILL_JWKS_URL: read, failed", ["outcome"]
)
REFUSALS = HotCounter(
    "seckill_refusals",
    "Refused before any store was asked: shed (too much in flight), stale (its bytes had waited too"
    " long), connection (too many of them), limit (a rate limit)",
    ["reason"],
)
REFUSED_SHED, REFUSED_STALE, REFUSED_CONNECTION, REFUSED_BY_LIMIT = map(
    REFUSALS.labels, ("shed", "stale", "connection", "limit")
)
#: The name before seckill_refusals; it goes with the next release.
SHED = DerivedCounter(
    "seckill_shed",
    "Requests and connections refused because too much was in flight",
    [],
    lambda: {(): REFUSED_SHED.value + REFUSED_STALE.value + REFUSED_CONNECTION.value},
)
CONNECTIONS = Gauge("seckill_connections", "Open connections of clients")
CONNECTIONS_MAX = Gauge("seckill_connections_max", "Connections of clients that may be open")
LOOP_LAG_SECONDS = HotHistogram(
    "seckill_loop_lag_seconds", "How late the event loop wakes a task", [], _LAGS_S
)
RESET = Counter(
    "seckill_connections_reset", "Connections reset because they waited too long to be accepted"
)
PORT_CLOSED = Counter(
    "seckill_port_closed_seconds",
    "Time for which the port was closed, as more connections waited than could be served",
)
EVICTED = Counter(
    "seckill_connections_evicted", "Idle connections closed because all places were taken"
)
ACCEPT_QUEUE = Gauge("seckill_accept_queue", "Connections that wait to be accepted")
PUBLISH_FAILURES = Counter("seckill_publish_failures", "Publishes that were not confirmed in time")
SPANS = Counter(
    "seckill_spans", "Spans of traces: exported, failed (lost), dropped (too many)", ["outcome"]
)
EVENT_STREAMS = Gauge("seckill_event_streams", "Open event streams")
EVENT_STREAMS_DROPPED = Counter("seckill_event_streams_dropped", "Clients that did not read")

STORE_FAILURES = Counter(
    "seckill_store_failures",
    "Calls that a store did not do: unavailable, transient, or configuration (call an operator)",
    ["store", "kind"],
)

STORE_WORKS = Gauge(
    "seckill_store_works",
    "1 while the last look of this process at a store found all well",
    ["store"],
)

ROLE_IN_FLIGHT = Gauge(
    "seckill_role_in_hand", "Messages taken and not acknowledged; 1 while a poller works", ["role"]
)
ROLE_OLDEST = Gauge(
    "seckill_role_oldest_age_seconds", "Since the oldest message in flight was sent", ["role"]
)
ROLE_DONE = Counter("seckill_role_done", "Messages acknowledged; items of a poller", ["role"])
ROLE_ERRORS = Counter("seckill_role_errors", "Failed messages, and pauses of a role", ["role"])
ROLE_HELD = Gauge("seckill_role_held", "1 while a role waits for a store", ["role"])
PLACEMENTS = Counter("seckill_placements", "What became of grabs in PostgreSQL", ["outcome"])
PLACEMENT_SECONDS = HotHistogram(
    "seckill_placement_seconds",
    "From a grab to its pending row; of each message as often as it has new rows, of its first one",
    [],
    _WORK_S,
)
PLACE_CALL_SECONDS = HotHistogram(
    "seckill_place_call_seconds", "Placing one batch in PostgreSQL", [], _WORK_S
)
PLACE_BATCH = Histogram("seckill_place_batch_size", "Grabs in one transaction", buckets=_SIZES)
RETRIES = Counter("seckill_retries", "Messages put into a retry queue", ["queue"])
DEAD = Counter("seckill_dead_letters", "Entries moved to a dead queue", ["queue"])
DEAD_ARRIVED = Counter(
    "seckill_dead_letters_arrived",
    "Dead letters that came, or came again",
    ["queue"],
)
DEAD_OPEN = Gauge("seckill_dead_letters_open", "Dead letters that wait for an operator", ["queue"])
EXPIRED = Counter("seckill_orders_expired", "Unpaid orders cancelled", ["by"])
RETURNED = Counter("seckill_units_returned", "Holders given back to Redis")
RELAYED = Counter("seckill_outbox_relayed", "Outbox entries re-sent by the relay")
LOST_CALLS = Counter(
    "seckill_lost_grab_batches",
    "Batches of grabs that Redis has lost after this process took them: the sale is fenced",
)
TO_REBUILD = Gauge("seckill_sales_to_rebuild", "Sales that sell nothing until a rebuild", ["why"])
RECONCILED = Counter(
    "seckill_reconciled", "Orders on which the stores were made to agree", ["action"]
)
ROLE_RUNNING = Gauge("seckill_role_running", "1 while this process runs the role", ["role"])
WEBHOOK_DELIVERIES = Counter(
    "seckill_webhook_deliveries",
    "Attempts to send an event to the shop: delivered, failed (is tried again), dead (given up)",
    ["outcome"],
)
EVENTS = Counter("seckill_events_published", "Events that the broker confirmed", ["topic"])

TRANSACTIONS = Counter(
    "seckill_transactions",
    "What became of transactions: their end; left (to recover), parked, busy (not begun)",
    ["engine", "outcome"],
)
TRANSACTION_STEP_SECONDS = HotHistogram(
    "seckill_transaction_step_seconds",
    "Steps of TCC (TRY, CONFIRM, CANCEL) and Saga (DO, UNDO), of each batch as often as it has"
    " transactions: done, refused, failed",
    ["branch", "op", "result"],
    _WORK_S,
)
PROVIDER_CALL_SECONDS = HotHistogram(
    "seckill_provider_call_seconds",
    "Calls to the card provider: ok, failed (no answer, or none that can be read)",
    ["call", "result"],
    _WORK_S,
)
TRANSACTIONS_IN_FLIGHT = Gauge(
    "seckill_transactions_in_hand", "Submitted and not answered", ["name"]
)
TRANSACTIONS_PARKED = Gauge(
    "seckill_transactions_parked",
    "Wait for an operator (`seckill tx list`); more than 0 is an alarm",
)
TRANSACTIONS_RECOVERED = Counter(
    "seckill_transactions_recovered",
    "Taken by recover: left, due again, or a Saga to begin",
    ["engine"],
)

BACKLOG = Gauge(
    "seckill_backlog",
    "What waits for a role in its store; relay: entries of all outboxes; NaN while it is not known",
    ["role"],
)
BACKLOG_OLDEST = Gauge(
    "seckill_backlog_oldest_age_seconds",
    "Since the oldest of it waits; of a queue: since it was last seen empty",
    ["role"],
)
BACKLOG_CONSUMERS = Gauge("seckill_backlog_consumers", "Consumers of the role's queue", ["role"])
SALES_LIVE = Gauge("seckill_sales_live", "Sales that pollers look at", ["state"])
UNITS = Gauge(
    "seckill_units",
    "Units of live sales by PostgreSQL: available, frozen (of pending orders), sold (of paid ones)",
    ["state"],
)
LEDGER_DIFFERENCE = Gauge(
    "seckill_ledger_difference_units",
    "Units that Redis and PostgreSQL count differently, of all live sales: redis_fewer (grabs and"
    " give-backs on their way; for long, something is lost), redis_more (must be 0)",
    ["kind"],
)
SALE_UNITS_LEFT = Gauge(
    "seckill_sale_units_left",
    "Units left in Redis of the largest open sales, at most SECKILL_METRICS_SALES; the only metric"
    " with a label of a sale",
    ["sale"],
)


#: What an alarm compares with what it was: there from the beginning, since a series that begins
#: with 1 has never grown for Prometheus.
for _store in ("redis", "rabbitmq", "postgresql"):
    STORE_FAILURES.labels(_store, "configuration")
for _outcome in ("completed", "compensated"):
    TRANSACTIONS.labels("saga", _outcome)
for _action in ("republish", "give_back", "adopt"):
    RECONCILED.labels(_action)
PLACEMENTS.labels("stock")
WEBHOOKS.labels("refused")
