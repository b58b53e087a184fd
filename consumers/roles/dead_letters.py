"""dead_letters: moves the messages of the dead queues into SQL, where an operator looks.

Ack follows commit. A message that is delivered again finds its row. A message that cannot be read
is stored as bytes. A message that PostgreSQL does not take is retried until PostgreSQL takes it.
`seckill/dead_letters/store.py` says when two messages are the same letter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.queue_role import DELIVERY_COUNT, earlier_deliveries, queue_role
from consumers.runtime.retries import RetrySchedule
from consumers.runtime.role import Role, RoleGroup
from seckill import messages, metrics
from seckill.adapters import topology
from seckill.adapters.publisher import Publisher
from seckill.dead_letters import parser, store
from seckill.errors import Transient
from seckill.log_lines import IDS_MAX

#: Weight of the letters written in one transaction: a hundred letters of fifty grabs each.
BATCH_MAX = 5_000
#: A letter that PostgreSQL did not take waits so long: time enough to mend something.
AGAIN_S = topology.RETRY_DELAYS_S[-1]
#: A letter whose consumer was killed so often takes the way of one that PostgreSQL did not take:
#: when it comes back, RabbitMQ counts its deliveries anew. From half of the limit that RabbitMQ 4
#: has for queues which an earlier version made, beyond which it drops the letter.
TOO_OFTEN = range(topology.DELIVERY_LIMIT // 2, topology.DELIVERY_LIMIT + 1)
#: Between two counts. An operator closes letters in another process, and the alarm should soon end.
COUNT_S = 5.0

log = logging.getLogger(__name__)


class StoreDeadLetters:
    """The handler of the dead queue of one work queue."""

    def __init__(self, db: asyncpg.Pool, queue: str) -> None:
        self._db = db
        self._queue = queue

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Write all messages into SQL, and log those that are new."""
        for often in map(earlier_deliveries, batch):
            if often in TOO_OFTEN:
                raise Transient(f"it was delivered {often} times without an answer")
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
                extra={
                    "event": "dead_letter",
                    "queue": self._queue,
                    "sale_id": message.sale_id,
                    "order_ids": [order.order_id for order in message.orders[:IDS_MAX]],
                },
            )


class LongestRetry(RetrySchedule):
    """Retries a dead message with the longest delay, without end, and keeps its headers.

    The headers say why and when the message died. The normal schedule would replace them with the
    failure of this role, and would dead-letter the message again after its last delay.
    """

    def __init__(self, publisher: Publisher, queue: str) -> None:
        super().__init__(publisher, topology.dead(queue))

    async def handle_failure(self, message: AbstractIncomingMessage, error: Exception) -> None:
        """Publish the message to the retry queue of the longest delay."""
        log.error(
            "a letter in %s cannot be written, again in %d s", self._queue, AGAIN_S, exc_info=error
        )
        headers = {
            name: value
            for name, value in message.headers.items()
            if isinstance(value, str | int) and name != DELIVERY_COUNT
        }
        await self._publisher.publish_later(AGAIN_S, AGAIN_S, self._queue, message, headers)


class OpenLetterCount:
    """Keeps the alarm gauge: how many letters wait for an operator."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db

    async def run_once(self) -> Polled:
        """Count once; there is never more to do at once."""
        open_now = await store.open_by_queue(self._db)
        for queue in topology.WORK_QUEUES:
            metrics.DEAD_OPEN.labels(queue).set(open_now.get(queue, 0))
        return Polled(0, more=False)


def build(stores: Resources) -> Role:
    """Return the role: a consumer of each dead queue, and the count of open letters."""
    movers = [
        queue_role(
            stores,
            f"dead_letters {queue}",
            topology.dead(queue),
            StoreDeadLetters(stores.db, queue).handle,
            batch_max=BATCH_MAX,
            retries=LongestRetry(stores.publisher, queue),
        )
        for queue in topology.WORK_QUEUES
    ]
    counter = OpenLetterCount(stores.db)
    return RoleGroup([*movers, PollRole("dead_letters", counter.run_once, idle_s=COUNT_S)])
