"""publish_events: what the outbox of events holds goes to the topic exchange, oldest first.

At least once: a row goes when the broker has confirmed it, so a crash in between sends it again,
with the same id. While the broker is away the rows stay; they are as many as changes of orders, and
much smaller than the orders themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from consumers.runner import Polled
from seckill import events, telemetry
from seckill.broker import Publisher
from seckill.database import database_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.events import Event

#: Nobody waits for an event with a clock in hand.
IDLE_S = 0.2
#: Events sent in one transaction: how many come twice after a crash.
BATCH_MAX = 50


class PublishEvents:
    """Moves events from SQL to the broker."""

    def __init__(self, db: asyncpg.Pool, publisher: Publisher) -> None:
        self._db = db
        self._publisher = publisher

    async def run_once(self) -> Polled:
        """Send the oldest events; Unavailable when the broker does not confirm them all.

        The lock goes with the transaction: a process that is frozen in it loses both after
        `idle_in_transaction_session_timeout`, which one publish never lasts.
        """
        with database_errors_as_unavailable():
            async with self._db.acquire() as connection, connection.transaction():
                if not await events.lock_outbox(connection):
                    return Polled(0, more=False)  # another process is at it
                found = await events.oldest(connection, BATCH_MAX)
                sent, trouble = await self._send(connection, found)
                await events.remove(connection, sent)
        if trouble:
            raise trouble
        return Polled(len(sent), more=len(sent) == BATCH_MAX)

    async def _send(
        self, connection: asyncpg.Connection, found: Sequence[Event]
    ) -> tuple[list[int], Unavailable | None]:
        """Send events until one fails; return the ids of those that arrived, and what happened.

        One by one: an event must not arrive when the one before it did not.
        """
        sent: list[int] = []
        for event in found:
            body = await events.encode(connection, event)
            try:
                await self._publisher.publish_event(event.topic, body, str(event.event_id))
            except Unavailable as error:
                return sent, error
            sent.append(event.event_id)
            telemetry.EVENTS.labels(event.topic).inc()
        return sent, None
