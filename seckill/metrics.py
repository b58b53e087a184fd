"""The metrics. Label values are closed sets; never a buyer, an order or a sale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class HotCounter(Collector):
    """A counter for the hot path, in processes that count in one thread.

    The library's own counter takes a lock and a microsecond, several times in a grab.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._counts: dict[tuple[str, ...], HotCount] = {}
        REGISTRY.register(self)

    def labels(self, *values: str) -> HotCount:
        """Return the count for these values of the labels."""
        return self._counts.setdefault(values, HotCount())

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Report the counts to the registry."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family


class HotCount:
    """How often something happened."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, times: int = 1) -> None:
        """Add to the count."""
        self.value += times


_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 512, 1024)

GRABS = HotCounter("seckill_grabs", "Answers to grabs", ["verdict"])
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
