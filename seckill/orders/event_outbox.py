"""The outbox of events: changes of orders, Sagas and sales, for programs outside (docs/events.md).

Triggers write its rows (sql/0008_events.sql), in the transaction of the change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import asyncpg

from seckill.events import (
    VERSION,
    ChangedSale,
    EndedSaga,
    EventMessage,
    OrderChange,
    PaymentChange,
    encode_event,
)
from seckill.spans import SPANS, TraceContext, parse_traceparent
from seckill.tracing import order_traces

#: One publisher at a time: two could send the events of an order in the wrong order.
PUBLISHER_LOCK = 0x5EC_4112

# The other columns never change after the event; a reason counts once the order has ended.
_ORDERS = """
SELECT e.id, o.order_id::text, o.sale_id, o.buyer_id, o.quantity, o.amount_cents,
       s.currency, coalesce(c.version, 0),
       CASE WHEN e.topic NOT IN ('order.placed', 'order.paid', 'order.partly_refunded')
            THEN o.reason END
  FROM events e, unnest(e.order_ids, e.versions) AS c (order_id, version)
  JOIN orders o USING (order_id)
  JOIN sales s USING (sale_id)
 WHERE e.id = ANY ($1)
"""
_SAGAS = """
SELECT e.id, s.*, t.args ->> 'order_id', t.args ->> 'traceparent'
  FROM events e, unnest(e.tx_ids, e.names, e.reasons) AS s (tx_id, name, reason)
  LEFT JOIN transactions t USING (tx_id)
 WHERE e.id = ANY ($1)
"""
_PAYMENTS = """
SELECT e.id, x.reference, x.order_id::text, x.amount_cents, x.currency, x.reason, x.sale_id
  FROM events e, unnest(e.payment_refs) AS c (reference) JOIN external_payments x USING (reference)
 WHERE e.id = ANY ($1)
"""


# A sale that is deleted meanwhile leaves its id.
_SALES = """
SELECT e.id, c.sale_id, s.opens_at, s.closes_at
  FROM events e, unnest(e.sale_ids) AS c (sale_id)
  LEFT JOIN sales s USING (sale_id)
 WHERE e.id = ANY ($1)
"""
_OLDEST = """
SELECT id, topic, at, queued, coalesce(cardinality(order_ids), 0)
  FROM events {} ORDER BY id LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the outbox, and its message."""

    event_id: int
    topic: str
    message: EventMessage
    #: Its webhook deliveries are written.
    queued: bool = False
    #: The contexts of its traced orders, by order_id.
    traces: Mapping[str, TraceContext] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """Return the message, encoded."""
        return encode_event(self.message)


async def lock_outbox(connection: asyncpg.Connection) -> bool:
    """Become the only publisher until the transaction ends; return False if there is another."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", PUBLISHER_LOCK))


async def oldest(
    connection: asyncpg.Connection, events_max: int, orders_max: int, *, unqueued: bool = False
) -> tuple[list[StoredEvent], bool]:
    """Return the oldest events, oldest first, and whether there are more.

    They are at most `events_max`, and end with the event that brings them to `orders_max` orders.
    With `unqueued` they are those of which no webhook delivery is written.
    """
    query = _OLDEST.format("WHERE NOT queued" if unqueued else "")
    rows = await connection.fetch(query, events_max)
    if not rows:
        return [], False
    before = accumulate((row[4] for row in rows), initial=0)
    taken = [row for row, orders in zip(rows, before, strict=False) if orders < orders_max]
    ids = [row[0] for row in taken]
    orders, traces = await _orders_of(connection, ids)
    sagas = await _sagas_of(connection, ids, traces)
    payments = await _payments_of(connection, taken)
    sales = await _sales_of(connection, taken)
    found = []
    for id_, topic, at, queued, _ in taken:
        message = EventMessage(
            VERSION,
            id_,
            topic,
            at,
            orders=orders.get(id_, ()),
            sagas=sagas.get(id_, ()),
            payments=payments.get(id_, ()),
            sales=sales.get(id_, ()),
        )
        found.append(StoredEvent(id_, topic, message, queued, traces.get(id_, {})))
    return found, len(taken) < len(rows) or len(rows) == events_max


async def mark_queued(connection: asyncpg.Connection, event_ids: Sequence[int]) -> None:
    """Note that the webhook deliveries of events are written."""
    await connection.execute("UPDATE events SET queued = true WHERE id = ANY($1)", event_ids)


async def remove(connection: asyncpg.Connection, event_ids: Sequence[int]) -> None:
    """Remove events that the broker has confirmed."""
    await connection.execute("DELETE FROM events WHERE id = ANY($1)", event_ids)


async def _orders_of(
    connection: asyncpg.Connection, event_ids: Sequence[int]
) -> tuple[dict[int, list[OrderChange]], dict[int, dict[str, TraceContext]]]:
    changes = await connection.fetch(_ORDERS, event_ids)
    contexts = await order_traces.find(connection, {row[1] for row in changes})
    traces: dict[int, dict[str, TraceContext]] = defaultdict(dict)
    orders: dict[int, list[OrderChange]] = defaultdict(list)
    for event_id, order_id, *rest in changes:
        context = contexts.get(order_id)
        if context:
            traces[event_id][order_id] = context
        change = [order_id, *rest, context and context.traceparent]
        orders[event_id].append(OrderChange(*change))
    return orders, traces


async def _sagas_of(
    connection: asyncpg.Connection,
    event_ids: Sequence[int],
    traces: dict[int, dict[str, TraceContext]],
) -> dict[int, list[EndedSaga]]:
    """Return the Sagas of events; put the contexts of those that are traced into `traces`."""
    sagas: dict[int, list[EndedSaga]] = defaultdict(list)
    for event_id, tx_id, name, reason, order_id, traceparent in await connection.fetch(
        _SAGAS, event_ids
    ):
        # The argument of a traced order stays while tracing is off; readers then get none.
        context = parse_traceparent(traceparent) if SPANS.on else None
        if context:
            traces[event_id][order_id or tx_id] = context
        sagas[event_id].append(EndedSaga(tx_id, name, reason, context and context.traceparent))
    return sagas


async def _payments_of(
    connection: asyncpg.Connection, taken: Sequence[asyncpg.Record]
) -> Mapping[int, list[PaymentChange]]:
    """Return the payments of the shop's own checkout by event; most times there are none."""
    ids = [row[0] for row in taken if row[1].startswith("payment.")]
    found: dict[int, list[PaymentChange]] = defaultdict(list)
    for event_id, *change in await connection.fetch(_PAYMENTS, ids) if ids else ():
        found[event_id].append(PaymentChange(*change))
    return found


async def _sales_of(
    connection: asyncpg.Connection, taken: Sequence[asyncpg.Record]
) -> Mapping[int, list[ChangedSale]]:
    ids = [row[0] for row in taken if row[1].startswith("sale.")]
    found: dict[int, list[ChangedSale]] = defaultdict(list)
    for event_id, *change in await connection.fetch(_SALES, ids) if ids else ():
        found[event_id].append(ChangedSale(*change))
    return found
