"""dead_letters: what lies in the dead queues is written into SQL, where an operator looks.

Ack follows commit. A message delivered again finds its row; one that cannot be read is kept as
bytes; one that cannot be written down comes back until it can be. See
seckill/dead_letters/store.py for
what makes two messages the same letter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.queue_role import GRAB_BYTES, queue_role
from consumers.runtime.retries import RetrySchedule
from consumers.runtime.role import Role, RoleGroup
from seckill import messages, metrics
from seckill.adapters import topology
from seckill.adapters.rabbitmq import Publisher
from seckill.dead_letters import parser, store

log = logging.getLogger(__name__)

#: Letters written in one transaction.
BATCH_MAX = 100
#: The rung on which a letter waits that PostgreSQL did not take: long enough to mend something.
AGAIN_S = topology.RETRY_DELAYS_S[-1]
#: Operators end letters in processes of their own: an alarm should fall silent soon after.
COUNT_S = 5.0


class StoreDeadLetters:
    """The handler of the dead queue of one work queue."""

    def __init__(self, db: asyncpg.Pool, queue: str) -> None:
        self._db = db
        self._queue = queue

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Write all messages into SQL, and say which are news."""
        found = [
            parser.read(self._queue, part, message.headers)
            for message in batch
            for part in messages.parts_of(message.body)
        ]
        arrivals = await store.arrive(self._db, found)
        metrics.DEAD_ARRIVED.labels(self._queue).inc(len(arrivals))
        for arrival in arrivals:
            message = arrival.message
            log.error(
                "dead letter %d on %s, sale %s, %d orders: %s; see: seckill dead show %d",
                arrival.letter_id,
                self._queue,
                message.sale_id or "unknown",
                len(message.orders),
                parser.first_line(message.reason),
                arrival.letter_id,
            )


class LongestRetry(RetrySchedule):
    """Where a letter waits that could not be written down: with its story, however often."""

    def __init__(self, publisher: Publisher, queue: str) -> None:
        super().__init__(publisher, topology.dead(queue))

    async def take(self, message: AbstractIncomingMessage, error: Exception) -> None:
        """Let it come back later. The ladder of the living would put its own story in the place."""
        log.error(
            "a letter in %s cannot be written, again in %d s", self._queue, AGAIN_S, exc_info=error
        )
        headers = {k: v for k, v in message.headers.items() if isinstance(v, str | int)}
        await self._publisher.publish_later(AGAIN_S, AGAIN_S, self._queue, message, headers)


class OpenLetterCount:
    """Keeps the alarm gauge: letters that wait for an operator."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db

    async def run_once(self) -> Polled:
        """Count once; there is never more to do at once."""
        open_now = await store.open_by_queue(self._db)
        for queue in topology.WORK_QUEUES:
            metrics.DEAD_OPEN.labels(queue).set(open_now.get(queue, 0))
        return Polled(0, more=False)


def build(stores: Resources) -> Role:
    """Move the dead letters of every work queue."""
    movers = [
        queue_role(
            stores,
            f"dead_letters {queue}",
            topology.dead(queue),
            StoreDeadLetters(stores.db, queue).handle,
            BATCH_MAX * GRAB_BYTES,
            ladder=LongestRetry(stores.publisher, queue),
        )
        for queue in topology.WORK_QUEUES
    ]
    counter = OpenLetterCount(stores.db)
    return RoleGroup([*movers, PollRole("dead_letters", counter.run_once, idle_s=COUNT_S)])
