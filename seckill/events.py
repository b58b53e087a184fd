"""The outbox of events: changes of orders and Sagas, told to programs outside (docs/events.md).

Rows are written by triggers (sql/0014_events.sql), in the transaction of the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from seckill import messages
from seckill.messages import EndedSaga, OrderChange

#: One publisher at a time: two could send an order's events the wrong way round.
PUBLISHER_LOCK = 0x5EC_4112

# What is read of an order has not changed since the event: a reason counts once it has ended.
_ORDERS = """
SELECT o.order_id::text, o.sale_id, o.buyer_id, o.quantity, o.amount_cents, coalesce(c.version, 0),
       CASE WHEN e.topic NOT IN ('order.placed', 'order.paid') THEN o.reason END
  FROM events e, unnest(e.order_ids, e.versions) AS c (order_id, version)
  JOIN orders o USING (order_id)
 WHERE e.id = $1
"""
_SAGAS = """
SELECT s.* FROM events e, unnest(e.tx_ids, e.names, e.reasons) AS s (tx_id, name, reason)
 WHERE e.id = $1
"""


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the outbox."""

    event_id: int
    topic: str
    at: datetime
    of_orders: bool


async def lock_outbox(connection: asyncpg.Connection) -> bool:
    """Become the one publisher until the transaction ends; False while there is another."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", PUBLISHER_LOCK))


async def oldest(connection: asyncpg.Connection, limit: int) -> list[Event]:
    """Return the oldest events, oldest first."""
    rows = await connection.fetch(
        "SELECT id, topic, at, order_ids IS NOT NULL FROM events ORDER BY id LIMIT $1", limit
    )
    return [Event(*row) for row in rows]


async def encode(connection: asyncpg.Connection, event: Event) -> bytes:
    """Encode an event as the message that tells it."""
    rows = await connection.fetch(_ORDERS if event.of_orders else _SAGAS, event.event_id)
    if event.of_orders:
        orders = [OrderChange(*row) for row in rows]
        return messages.encode_event(event.event_id, event.topic, event.at, orders=orders)
    sagas = [EndedSaga(*row) for row in rows]
    return messages.encode_event(event.event_id, event.topic, event.at, sagas=sagas)


async def remove(connection: asyncpg.Connection, event_ids: Sequence[int]) -> None:
    """Forget events that the broker has."""
    await connection.execute("DELETE FROM events WHERE id = ANY($1)", event_ids)
