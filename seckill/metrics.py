"""The metrics. Label values are closed sets; never a buyer, an order or a sale."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from seckill.hot_metrics import CountsOf, HotCounter, HotHistogram

_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 512, 1024)

#: Of waits at the edge: 0.25 s is a promise, and from 0.1 s on an edge that is too busy refuses.
_WAITS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)

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
GRABS = CountsOf(
    "seckill_grabs", "Answers to grabs", ["verdict"], GRAB_SECONDS, without=["rate_limited"]
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
WEBHOOKS = Counter(
    "seckill_webhooks", "Webhooks of the card provider: taken, unknown_key, refused", ["outcome"]
)
SHED = Counter("seckill_shed", "Requests and connections refused because too much was in flight")
RESET = Counter(
    "seckill_connections_reset", "Connections reset because they waited too long to be accepted"
)
EVICTED = Counter(
    "seckill_connections_evicted", "Idle connections closed because all places were taken"
)
ACCEPT_QUEUE = Gauge("seckill_accept_queue", "Connections that wait to be accepted")
PUBLISH_FAILURES = Counter("seckill_publish_failures", "Publishes that were not confirmed in time")
EVENT_STREAMS = Gauge("seckill_event_streams", "Open event streams")
EVENT_STREAMS_DROPPED = Counter("seckill_event_streams_dropped", "Clients that did not read")

STORE_FAILURES = Counter(
    "seckill_store_failures",
    "Calls that a store did not do: unavailable, transient, or configuration (call an operator)",
    ["store", "kind"],
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
PLACE_BATCH = Histogram("seckill_place_batch_size", "Grabs in one transaction", buckets=_SIZES)
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
TO_REBUILD = Gauge("seckill_sales_to_rebuild", "Sales that sell nothing until a rebuild", ["why"])
RECONCILED = Counter(
    "seckill_reconciled", "Orders on which the stores were made to agree", ["action"]
)
ROLE_RUNNING = Gauge("seckill_role_running", "1 while this process runs the role", ["role"])
EVENTS = Counter("seckill_events_published", "Events that the broker confirmed", ["topic"])

TRANSACTIONS = Counter(
    "seckill_transactions",
    "What became of transactions: their end; left (to recover), parked, busy (not begun)",
    ["engine", "outcome"],
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
