"""dead_letters: what lies in the dead queues is written into SQL, where an operator looks.

Ack follows commit. A message delivered again finds its row; one that cannot be read is kept as
bytes; one that cannot be written down comes back until it can be. See seckill/dead_letters.py for
what makes two messages the same letter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from consumers.ladder import Ladder
from consumers.runner import Polled, Role
from seckill import dead_letters, dead_messages, messages, telemetry, topology
from seckill.broker import Publisher

log = logging.getLogger(__name__)

#: Letters written in one transaction.
BATCH_MAX = 100
#: The rung on which a letter waits that PostgreSQL did not take: long enough to mend something.
AGAIN_S = topology.RUNGS_S[-1]
#: Operators end letters in processes of their own: an alarm should fall silent soon after.
COUNT_S = 5.0


class DeadLetters:
    """The handler of the dead queue of one work queue."""

    def __init__(self, db: asyncpg.Pool, queue: str) -> None:
        self._db = db
        self._queue = queue

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Write all messages into SQL, and say which are news."""
        found = [
            dead_messages.read(self._queue, part, message.headers)
            for message in batch
            for part in messages.parts_of(message.body)
        ]
        arrivals = await dead_letters.arrive(self._db, found)
        telemetry.DEAD_ARRIVED.labels(self._queue).inc(len(arrivals))
        for arrival in arrivals:
            message = arrival.message
            log.error(
                "dead letter %d on %s, sale %s, %d orders: %s; see: seckill dead show %d",
                arrival.letter_id,
                self._queue,
                message.sale_id or "unknown",
                len(message.orders),
                dead_messages.first_line(message.reason),
                arrival.letter_id,
            )


class LastRung(Ladder):
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


class OpenLetters:
    """Keeps the alarm gauge: letters that wait for an operator."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db

    async def run_once(self) -> Polled:
        """Count once; there is never more to do at once."""
        open_now = await dead_letters.open_by_queue(self._db)
        for queue in topology.WORK_QUEUES:
            telemetry.DEAD_OPEN.labels(queue).set(open_now.get(queue, 0))
        return Polled(0, more=False)


class Together:
    """Several roles run as one; the first to fail ends them all."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self._roles = roles

    async def run(self, stop: asyncio.Event) -> None:
        """Run all of them until told to stop."""
        async with asyncio.TaskGroup() as group:
            for role in self._roles:
                group.create_task(role.run(stop))
