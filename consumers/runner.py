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

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from seckill import topology
from seckill.broker import Broker, link_errors_as_unavailable
from seckill.errors import Unavailable

log = logging.getLogger(__name__)

#: Waits while a store is away: quick for a restart, not a hammer for an outage.
HOLD_FIRST_S, HOLD_LAST_S = 0.2, 2.0

#: A message delivered this often before may be what took its consumers down.
SUSPECT_DELIVERIES = 2

Inbox = asyncio.Queue[AbstractIncomingMessage]
Handler = Callable[[Sequence[AbstractIncomingMessage]], Awaitable[None]]


class Role(Protocol):
    """A long-running part of the consumer process."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in hand and return."""


class QueueRole:
    """Takes messages from one queue, merges what is there, and acknowledges after the handler."""

    def __init__(
        self,
        broker: Broker,
        queue: str,
        handle: Handler,
        *,
        prefetch: int,
        weigh: Callable[[AbstractIncomingMessage], int],
        batch_max: int,
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._handle = handle
        self._prefetch = prefetch
        self._weigh = weigh
        self._batch_max = batch_max
        #: Take one message at a time. A message that takes its process down is delivered again to
        #: the next one; were others delivered with it, each crash would count against them, too,
        #: up to the delivery limit. So a process starts careful, and is careful while messages
        #: come that were delivered before.
        self._careful = True

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until told to stop, over a new link whenever one breaks."""
        while not stop.is_set():
            try:
                await self._consume(stop)
            except Unavailable as error:
                log.warning("%s: %s; trying again in %g s", self._queue, error, HOLD_LAST_S)
                await _pause(stop, HOLD_LAST_S)

    async def _consume(self, stop: asyncio.Event) -> None:
        """Consume over one link until it breaks, its pace must change, or we are told to stop.

        What was delivered and not acknowledged by then goes back to the queue by itself.
        """
        async with self._broker.channel() as channel:
            inbox: Inbox = asyncio.Queue()
            careful = self._careful
            with link_errors_as_unavailable("starting to consume"):
                await channel.set_qos(prefetch_count=1 if careful else self._prefetch)
                queue = (await topology.declare(channel)).queues[self._queue]
                await queue.consume(inbox.put)
            log.info("%s: consuming%s", self._queue, ", one at a time" if careful else "")
            ended = asyncio.create_task(_ended(channel, stop), name=f"{self._queue} end")
            try:
                while careful == self._careful and (first := await _next(inbox, ended)):
                    batch = self._merge(first, inbox)
                    # Pace of the next link, or of this one if it stays: see _careful.
                    self._careful = any(map(_is_suspect, batch))
                    for part in [[m] for m in batch] if self._careful else [batch]:
                        await self._work(part, stop)
            finally:
                ended.cancel()

    def _merge(self, first: AbstractIncomingMessage, inbox: Inbox) -> list[AbstractIncomingMessage]:
        batch, weight = [first], self._weigh(first)
        while weight < self._batch_max and not inbox.empty():
            batch.append(inbox.get_nowait())
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
                "%s: ack failed, %d messages will come again: %s", self._queue, len(batch), error
            )


def _is_suspect(message: AbstractIncomingMessage) -> bool:
    """Tell whether a message has come too often; quorum queues count (nothing the first time)."""
    count = message.headers.get("x-delivery-count", 0)
    return isinstance(count, int) and count >= SUSPECT_DELIVERIES


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


async def _ended(channel: AbstractChannel, stop: asyncio.Event) -> None:
    """Return when the channel is closed, by whom ever, or `stop` is set."""
    closed = asyncio.ensure_future(channel.closed())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({closed, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        closed.cancel()
        stopped.cancel()


async def _next(inbox: Inbox, ended: asyncio.Task[None]) -> AbstractIncomingMessage | None:
    """Return the next message; None when there will be no more."""
    getting = asyncio.create_task(inbox.get(), name="next message")
    await asyncio.wait({getting, ended}, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        getting.cancel()
        return None
    return getting.result()


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
