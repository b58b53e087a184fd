"""How every role runs: a queue consumer that merges messages, or a poller that paces itself.

Handlers decide what a message means; this file decides when it is taken, acknowledged and, while
a store is away, held. One table maps what a handler raises to what happens.

| raised | action |
|---|---|
| nothing | ack: the effect is committed |
| Unavailable | hold the batch unacked, wait, run it again: a store that is down is not its fault |
| anything else | the process stops loudly; unacked messages are delivered again |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection

from seckill import topology
from seckill.broker import link_errors_as_unavailable
from seckill.errors import Unavailable

log = logging.getLogger(__name__)

#: Waits while a store is away: quick for a restart, not a hammer for an outage.
HOLD_FIRST_S, HOLD_LAST_S = 0.2, 2.0

Handler = Callable[[Sequence[AbstractIncomingMessage]], Awaitable[None]]


class Role(Protocol):
    """A long-running part of the consumer process."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in hand and return."""


class QueueRole:
    """Takes messages from one queue, merges what is there, and acknowledges after the handler."""

    def __init__(
        self,
        connection: AbstractRobustConnection,
        queue: str,
        handle: Handler,
        *,
        prefetch: int,
        weigh: Callable[[AbstractIncomingMessage], int],
        batch_max: int,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._handle = handle
        self._prefetch = prefetch
        self._weigh = weigh
        self._batch_max = batch_max
        self._inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until told to stop; what is in the inbox then goes back to the queue."""
        channel = await self._connection.channel()
        await channel.set_qos(prefetch_count=self._prefetch)
        queue = (await topology.declare(channel)).queues[self._queue]
        await queue.consume(self._inbox.put)
        stopped = asyncio.create_task(stop.wait(), name=f"{self._queue} stop")
        try:
            while not stop.is_set():
                first = asyncio.create_task(self._inbox.get(), name=f"{self._queue} next")
                await asyncio.wait({first, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not first.done():
                    first.cancel()
                    break
                await self._work(self._merge(first.result()), stop)
        finally:
            stopped.cancel()
            # Closing the channel requeues all that was delivered and not acknowledged.
            await channel.close()

    def _merge(self, first: AbstractIncomingMessage) -> list[AbstractIncomingMessage]:
        batch, weight = [first], self._weigh(first)
        while weight < self._batch_max and not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
            weight += self._weigh(batch[-1])
        return batch

    async def _work(self, batch: list[AbstractIncomingMessage], stop: asyncio.Event) -> None:
        if not await _until_available(lambda: self._handle(batch), self._queue, stop):
            return
        try:
            # One ack settles all that this channel delivered before it, too: batches are worked on
            # in the order of delivery, one at a time.
            with link_errors_as_unavailable("an ack"):
                await batch[-1].ack(multiple=True)
        except Unavailable as error:
            # The link broke after the commit: the batch comes again and is found placed.
            log.warning(
                "%s: ack failed, %d messages will come again: %r", self._queue, len(batch), error
            )


class PollRole:
    """Calls `run_once` for ever: at once after a full batch, else after a pause."""

    def __init__(
        self, name: str, run_once: Callable[[], Awaitable[bool]], *, idle_s: float
    ) -> None:
        self._name = name
        self._run_once = run_once
        self._idle_s = idle_s

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until told to stop."""
        backlog = False

        async def once() -> None:
            nonlocal backlog
            backlog = await self._run_once()

        while not stop.is_set():
            await _until_available(once, self._name, stop)
            if not backlog:
                await _pause(stop, self._idle_s)


async def _until_available(
    work: Callable[[], Awaitable[None]], name: str, stop: asyncio.Event
) -> bool:
    """Run `work` again while a store is away; False when told to stop before it succeeded."""
    wait_s = HOLD_FIRST_S
    while True:
        try:
            await work()
        except Unavailable as error:
            if wait_s == HOLD_FIRST_S:
                log.warning("%s pauses: %s", name, error)
            await _pause(stop, wait_s)
            wait_s = min(wait_s * 2, HOLD_LAST_S)
            if stop.is_set():
                return False
        else:
            if wait_s > HOLD_FIRST_S:
                log.warning("%s resumes", name)
            return True


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
