"""From events to deliveries: one for each endpoint that wants the event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import uuid4

import asyncpg
from msgspec.structs import replace

from seckill.events import EventMessage, encode_event

#: Orders in one request: some 25 kB, under the 100 kB that common servers take by default.
ORDERS_MAX = 100

# The lock keeps each endpoint until the commit: the delivery of one that is removed meanwhile would
# refer to nothing. An endpoint that is not enabled gets its deliveries, too, and they wait for it.
_ADD = """
WITH wanted AS (
  SELECT m.*, e.endpoint_id
    FROM unnest($1::uuid[], $2::text[], $3::bytea[])
           WITH ORDINALITY AS m (message_id, topic, body, number)
    JOIN webhook_endpoints e
      ON e.topics = '{}' OR m.topic = ANY (e.topics)
      OR split_part(m.topic, '.', 1) || '.*' = ANY (e.topics)
     FOR KEY SHARE OF e
), messages AS (
  INSERT INTO webhook_messages (message_id, topic, body)
  SELECT DISTINCT ON (message_id) message_id, topic, body FROM wanted
)
INSERT INTO webhook_deliveries (message_id, endpoint_id)
SELECT message_id, endpoint_id FROM wanted ORDER BY number, endpoint_id
"""


async def is_wanted(connection: asyncpg.Connection) -> bool:
    """Return whether there is any endpoint."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM webhook_endpoints)"))


async def add(connection: asyncpg.Connection, events: Sequence[EventMessage]) -> None:
    """Queue events for the endpoints that want them, in the transaction of the connection."""
    parts = [part for event in events for part in split(event)]
    await connection.execute(
        _ADD,
        [uuid4() for _ in parts],
        [part.topic for part in parts],
        [encode_event(part) for part in parts],
    )


def split(event: EventMessage) -> Iterator[EventMessage]:
    """Yield an event in parts of ORDERS_MAX orders; one of Sagas or sales is never that large."""
    for first in range(0, max(len(event.orders), 1), ORDERS_MAX):
        yield replace(event, orders=event.orders[first : first + ORDERS_MAX])
