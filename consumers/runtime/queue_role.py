"""How every role runs: a queue consumer that merges messages, or a poller that paces itself.

Handlers decide what a message means, `ladder.py` what becomes of one whose handler failed; this
file decides when it is taken, acknowledged and, while a store is away, held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from consumers.resources import Resources
from consumers.runtime.fair_inbox import FairInbox
from consumers.runtime.retries import FailureAction, RetrySchedule, failure_action
from consumers.runtime.role import HOLD, pause, until_available
from seckill import metrics
from seckill.adapters import topology
from seckill.adapters.rabbitmq import Broker, link_errors_as_unavailable
from seckill.errors import Unavailable

log = logging.getLogger(__name__)

#: A message delivered this often before may be what took its consumers down.
SUSPECT_DELIVERIES = 2

Message = AbstractIncomingMessage
Handler = Callable[[Sequence[Message]], Awaitable[None]]


class QueueRole:
    """Takes messages from one queue, merges what is there, and acknowledges after the handler."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        queue: str,
        handle: Handler,
        ladder: RetrySchedule,
        *,
        prefetch: int,
        weigh: Callable[[Message], int],
        batch_max: int,
        key: Callable[[Message], str] = lambda _: "",
        spacing_s: float = 0.0,
    ) -> None:
        self._name = name
        self._broker = broker
        self._queue = queue
        self._handle = handle
        self._ladder = ladder
        self._prefetch = prefetch
        self._weigh = weigh
        self._batch_max = batch_max
        #: What batches are fair across.
        self._key = key
        self._spacing_s = spacing_s
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
                log.warning("%s: %s; trying again in %g s", self._queue, error, HOLD.last_s)
                await pause(stop, HOLD.last_s)

    async def _consume(self, stop: asyncio.Event) -> None:
        """Consume over one link until it breaks, its pace must change, or we are told to stop.

        What was delivered and not acknowledged by then goes back to the queue by itself.
        """
        # One at a time nothing follows: there is nothing to wait for.
        spacing_s = 0.0 if self._careful else self._spacing_s
        inbox = FairInbox(self._key, self._weigh, spacing_s)
        metrics.ROLE_IN_FLIGHT.labels(self._name).set_function(inbox.__len__)
        metrics.ROLE_OLDEST.labels(self._name).set_function(inbox.oldest_age_s)
        try:
            async with self._broker.channel() as channel:
                await self._consume_from(channel, inbox, stop)
        finally:
            inbox.clear()  # after the last delivery

    async def _consume_from(
        self, channel: AbstractChannel, inbox: FairInbox, stop: asyncio.Event
    ) -> None:
        careful = self._careful
        deleted = asyncio.Event()
        with link_errors_as_unavailable("starting to consume"):
            await channel.set_qos(prefetch_count=1 if careful else self._prefetch)
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: deleted.set())
            queue = (await topology.declare(channel)).queues[self._queue]
            await queue.consume(inbox.put)
        log.info("%s: consuming%s", self._queue, ", one at a time" if careful else "")
        ended = asyncio.create_task(_ended(channel, deleted, stop), name=f"{self._queue} end")
        try:
            while careful == self._careful and await _arrived(inbox, ended):
                batch = inbox.take(self._batch_max)
                # Pace of the next link, or of this one if it stays: see _careful.
                self._careful = any(map(is_suspect, batch))
                for part in [[m] for m in batch] if self._careful else [batch]:
                    await self._work(part, inbox, stop)
        finally:
            ended.cancel()
        if deleted.is_set():
            raise Unavailable(f"RabbitMQ: the queue {self._queue} was deleted")

    async def _work(self, batch: list[Message], inbox: FairInbox, stop: asyncio.Event) -> None:
        """Handle a batch, send up the ladder what failed of it, acknowledge all."""
        failed: list[tuple[Message, Exception]] = []

        async def handle() -> None:
            failed.clear()
            await self._handle_halving(batch, failed)

        async def give_up() -> None:
            while failed:  # one by one, so that a broker that is away makes no second copies
                await self._ladder.take(*failed[-1])
                failed.pop()
                metrics.ROLE_ERRORS.labels(self._name).inc()

        for step in (handle, give_up):
            if not await until_available(step, self._name, stop):
                return
        try:
            with link_errors_as_unavailable("an ack"):
                await asyncio.gather(*(m.ack(multiple) for m, multiple in inbox.acks(batch)))
        except Unavailable as error:
            # The link broke after the commit: the batch comes again and is found placed.
            log.warning(
                "%s: ack failed, %d messages will come again: %s", self._queue, len(batch), error
            )
            return
        inbox.done(batch)
        metrics.ROLE_DONE.labels(self._name).inc(len(batch))

    async def _handle_halving(
        self, batch: list[Message], failed: list[tuple[Message, Exception]]
    ) -> None:
        """Handle a batch; when that fails, halve it until only what fails by itself is left out."""
        try:
            await self._handle(batch)
        except Exception as error:
            if failure_action(error) is FailureAction.HOLD:
                raise
            if len(batch) == 1:
                failed.append((batch[0], error))
                return
            middle = len(batch) // 2
            await self._handle_halving(batch[:middle], failed)
            await self._handle_halving(batch[middle:], failed)


def is_suspect(message: Message) -> bool:
    """Tell whether a message has come too often; quorum queues count (nothing the first time)."""
    count = message.headers.get("x-delivery-count", 0)
    return isinstance(count, int) and count >= SUSPECT_DELIVERIES


async def _ended(channel: AbstractChannel, *events: asyncio.Event) -> None:
    """Return when the channel is closed, by whom ever, or one of the events is set."""
    waiting = {asyncio.ensure_future(channel.closed())}
    waiting |= {asyncio.create_task(event.wait()) for event in events}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def _arrived(inbox: FairInbox, ended: asyncio.Task[None]) -> bool:
    """Wait for a message; False when there will be no more."""
    arriving = asyncio.create_task(inbox.arrived(), name="next message")
    await asyncio.wait({arriving, ended}, return_when=asyncio.FIRST_COMPLETED)
    arriving.cancel()
    return not ended.done()


#: Ids of one entry in a message take about this many bytes; weighs a message without decoding it.
GRAB_BYTES = 50


def queue_role(
    stores: Resources,
    name: str,
    queue: str,
    handle: Handler,
    batch_max: int,
    *,
    key: Callable[[Message], str] = lambda _: "",
    ladder: RetrySchedule | None = None,
    spacing_s: float = 0.0,
) -> QueueRole:
    """Return a role that consumes a queue over the stores of this process."""
    return QueueRole(
        name,
        stores.consuming,
        queue,
        handle,
        ladder or RetrySchedule(stores.publisher, queue),
        prefetch=stores.settings.prefetch,
        weigh=lambda message: 1 + len(message.body) // GRAB_BYTES,
        batch_max=batch_max,
        key=key,
        spacing_s=spacing_s,
    )
