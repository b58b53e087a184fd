"""publish_events: moves the events of the SQL outbox to the topic exchange, oldest first.

Where the shop has webhook endpoints, it first writes a delivery of each event for each of them, in
the transaction that removes the event: none is lost for an endpoint (role send_webhooks).

At least once: a row is deleted after the broker has confirmed it, so a crash in between sends the
event again, with the same id. While the broker is unavailable the rows stay; each is much smaller
than the orders that it names.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

import asyncpg

from consumers.resources import Resources
from consumers.runtime.activity import REST_S
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.adapters import topology
from seckill.adapters.postgres import transaction
from seckill.adapters.publisher import Publisher
from seckill.errors import Unavailable
from seckill.orders import event_outbox
from seckill.orders.event_outbox import StoredEvent
from seckill.spans import SPANS, SpanKind, queue_attributes
from seckill.webhooks import queue

#: No reader of events needs them sooner.
IDLE_S = 0.2
#: During a sale the role sends a little at a time: a large pass holds up other work on the core.
BUSY_S = 0.1
#: Sent in one transaction: so much is sent twice after a crash.
EVENTS_MAX, ORDERS_MAX = 50, 1_000
#: A slow broker must not keep the transaction longer than PostgreSQL lets it be idle.
SEND_S = 2.0


class PublishEvents:
    """Moves events from SQL to the broker."""

    def __init__(self, db: asyncpg.Pool, publisher: Publisher) -> None:
        self._db = db
        self._publisher = publisher

    async def run_once(self) -> Polled:
        """Send the oldest events; raise Unavailable if the broker does not confirm all of them.

        The lock ends with the transaction: a process that is frozen in it loses both after
        `idle_in_transaction_session_timeout`, which is longer than SEND_S and a last publish.
        """
        async with transaction(self._db) as connection:
            if not await event_outbox.lock_outbox(connection):
                return Polled(0, more=False)  # another process publishes
            found, more = await event_outbox.oldest(connection, EVENTS_MAX, ORDERS_MAX)
            if not found:
                return Polled(0, more=False)
            if await queue.is_wanted(connection):
                await _queue_webhooks(connection, found)
            sent, trouble = await self._send(found)
            await event_outbox.remove(connection, sent)
        if trouble:
            raise trouble
        return Polled(len(sent), more=more or len(sent) < len(found))

    async def _send(self, found: Sequence[StoredEvent]) -> tuple[list[int], Unavailable | None]:
        """Send events until one fails, or for SEND_S; return the ids that arrived, and the error.

        No event of an order may arrive if an earlier one did not. An order has one event under each
        topic, so events of the same topic that follow each other are sent together.
        """
        sent: list[int] = []
        until = time.monotonic() + SEND_S
        for topic, group in groupby(found, key=attrgetter("topic")):
            together = list(group)
            troubles = await asyncio.gather(*map(self._send_one, together))
            arrived = [e.event_id for e, bad in zip(together, troubles, strict=True) if not bad]
            sent += arrived
            metrics.EVENTS.labels(topic).inc(len(arrived))
            trouble = next(filter(None, troubles), None)
            if trouble or time.monotonic() > until:
                return sent, trouble
        return sent, None

    async def _send_one(self, event: StoredEvent) -> Unavailable | None:
        start_ns = time.time_ns()
        try:
            await self._publisher.publish_event(event.topic, event.body, str(event.event_id))
        except Unavailable as error:
            return error
        SPANS.record_batch(
            f"send {event.topic}",
            event.traces,
            start_ns,
            size=1,
            kind=SpanKind.PRODUCER,
            attributes=queue_attributes(topology.EVENTS, "publish"),
        )
        return None


async def _queue_webhooks(connection: asyncpg.Connection, found: Sequence[StoredEvent]) -> None:
    """Write the webhook deliveries of events, before the broker is asked.

    While the broker takes none, the oldest events stay the same, and the next ones are queued.
    """
    fresh = [event for event in found if not event.queued]
    if not fresh:
        fresh, _ = await event_outbox.oldest(connection, EVENTS_MAX, ORDERS_MAX, unqueued=True)
    await queue.add(connection, [event.message for event in fresh])
    await event_outbox.mark_queued(connection, [event.event_id for event in fresh])


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    role = PublishEvents(stores.db, stores.event_publisher)
    return PollRole("publish_events", role.run_once, idle_s=IDLE_S, busy_s=BUSY_S, rest_s=REST_S)
