"""A role that consumes a queue: it merges messages, and acknowledges them after the handler.

The handler decides what a message means, and retries.py what becomes of a message whose handler
failed. This file decides when a message is taken, when it is acknowledged, and that it is held
while a store is unavailable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from aio_pika.abc import AbstractChannel

from consumers.resources import Resources
from consumers.runtime.activity import ACTIVITY
from consumers.runtime.batch_progress import BatchProgress, Handler, Message
from consumers.runtime.fair_inbox import FairInbox
from consumers.runtime.retries import RetrySchedule
from consumers.runtime.role import HOLD, pause, until_available
from seckill import metrics
from seckill.adapters import postgres, topology
from seckill.adapters.failures import RABBITMQ, store_failure
from seckill.adapters.rabbitmq import Broker, link_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.outages import OUTAGES

#: A message delivered this often before may be the one that killed its consumers.
SUSPECT_DELIVERIES = 2
#: RabbitMQ's header of a message that was delivered before.
DELIVERY_COUNT = "x-delivery-count"
#: The ids of one entry take about this many bytes: a body is weighed without decoding it.
ENTRY_BYTES = 50

log = logging.getLogger(__name__)


def queue_role(
    stores: Resources,
    name: str,
    queue: str,
    handle: Handler,
    *,
    batch_max: int,
    key: Callable[[Message], str] = lambda _: "",
    retries: RetrySchedule | None = None,
    spacing_s: float = 0.0,
) -> QueueRole:
    """Return a role that consumes a queue with a handler, over the stores of this process."""
    return QueueRole(
        name,
        stores.consuming,
        queue,
        handle,
        retries or RetrySchedule(stores.publisher, queue),
        partial(postgres.ask, stores.db),
        prefetch=stores.settings.prefetch,
        batch_max=batch_max,
        key=key,
        spacing_s=spacing_s,
    )


def weight_of(message: Message) -> int:
    """Return about how many entries a message has, and 1 for itself."""
    return 1 + len(message.body) // ENTRY_BYTES


def earlier_deliveries(message: Message) -> int:
    """Return how often a message was delivered before, and not acknowledged.

    RabbitMQ 4 leaves the last count of another queue on a message that it dead-letters: one more
    than the limit, at its first delivery.
    """
    count = message.headers.get(DELIVERY_COUNT, 0)
    return count if isinstance(count, int) else 0


def is_suspect(message: Message) -> bool:
    """Return whether a message was delivered too often."""
    return earlier_deliveries(message) >= SUSPECT_DELIVERIES


class QueueRole:
    """Takes messages from one queue, merges those that wait, and acknowledges after the handler."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        queue: str,
        handle: Handler,
        retries: RetrySchedule,
        ask_store: Callable[[], Awaitable[None]],
        *,
        prefetch: int,
        batch_max: int,
        key: Callable[[Message], str] = lambda _: "",
        spacing_s: float = 0.0,
    ) -> None:
        self._name = name
        self._broker = broker
        self._queue = queue
        self._handle = handle
        self._retries = retries
        #: A trivial call of PostgreSQL: see BatchProgress.
        self._ask_store = ask_store
        self._prefetch = prefetch
        #: The weight at which a batch is full.
        self._batch_max = batch_max
        #: Batches are fair across the values of this key.
        self._key = key
        self._spacing_s = spacing_s
        #: Take one message at a time. RabbitMQ delivers a message that killed its process to the
        #: next process, and counts each delivery. Messages delivered together with it would be
        #: counted too, up to the delivery limit. So a process starts with one at a time, and stays
        #: with it while suspect messages come.
        self._one_at_a_time = True

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, over a new link whenever one breaks."""
        try:
            while not stop.is_set():
                try:
                    await self._consume(stop)
                except Exception as error:
                    failure = store_failure(error, RABBITMQ)
                    if failure is None:
                        raise
                    OUTAGES.failed(failure)
                    OUTAGES.wait_for(failure.store, self)
                    await pause(stop, HOLD.last_s)
        finally:
            OUTAGES.go_on(self)

    async def _consume(self, stop: asyncio.Event) -> None:
        """Consume over one link until it breaks, `stop` is set, or `_one_at_a_time` changes.

        RabbitMQ then returns what was delivered and not acknowledged to the queue by itself.
        """
        # With one message at a time there is nothing to wait for.
        spacing_s = 0.0 if self._one_at_a_time else self._spacing_s
        inbox = FairInbox(self._key, weight_of, spacing_s)
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
        one_at_a_time = self._one_at_a_time
        deleted = asyncio.Event()
        with link_errors_as_unavailable("starting to consume"):
            await channel.set_qos(prefetch_count=1 if one_at_a_time else self._prefetch)
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: deleted.set())
            declared = await topology.declare(channel)
            await declared.queues[self._queue].consume(inbox.put)
        OUTAGES.worked(RABBITMQ)
        OUTAGES.go_on(self)
        if self._queue in declared.limited:
            log.warning("%s", topology.limit_advice(self._queue))
        log.info("%s: consuming%s", self._queue, ", one at a time" if one_at_a_time else "")
        ended = asyncio.create_task(_ended(channel, deleted, stop), name=f"{self._queue} end")
        try:
            while one_at_a_time == self._one_at_a_time and await _arrived(inbox, ended):
                batch = inbox.take(self._batch_max)
                self._one_at_a_time = any(map(is_suspect, batch))
                for part in [[m] for m in batch] if self._one_at_a_time else [batch]:
                    await self._work(part, inbox, stop)
        finally:
            ended.cancel()
        if deleted.is_set():
            raise Unavailable(
                f"RabbitMQ: the queue {self._queue} was deleted", store=RABBITMQ, code=self._queue
            )

    async def _work(self, batch: list[Message], inbox: FairInbox, stop: asyncio.Event) -> None:
        """Handle a batch, retry or dead-letter the messages that failed, acknowledge all."""
        progress = BatchProgress(batch, self._handle, self._ask_store)

        async def retry() -> None:
            # At once, as each waits for a confirm. What was confirmed is not published again.
            failed = progress.failed
            publishes = [self._retries.handle_failure(*each) for each in failed]
            errors = await asyncio.gather(*publishes, return_exceptions=True)
            metrics.ROLE_ERRORS.labels(self._name).inc(errors.count(None))
            failed[:] = [each for each, error in zip(failed, errors, strict=True) if error]
            for error in filter(None, errors):
                raise error

        for step in (progress.go_on, retry):
            if not await until_available(step, self._name, stop):
                return
        try:
            with link_errors_as_unavailable("an ack"):
                await asyncio.gather(*(m.ack(multiple) for m, multiple in inbox.acks(batch)))
        except Unavailable as error:
            # The link broke after the commit: the batch is delivered again and found placed.
            log.warning(
                "%s: ack failed, %d messages will come again: %s", self._queue, len(batch), error
            )
            return
        inbox.done(batch)
        ACTIVITY.worked()
        metrics.ROLE_DONE.labels(self._name).inc(len(batch))


async def _ended(channel: AbstractChannel, *events: asyncio.Event) -> None:
    """Return when the channel is closed by either side, or one of the events is set."""
    waiting = {asyncio.ensure_future(channel.closed())}
    waiting |= {asyncio.create_task(event.wait()) for event in events}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def _arrived(inbox: FairInbox, ended: asyncio.Task[None]) -> bool:
    """Wait for a message; return False if no more will come."""
    arriving = asyncio.create_task(inbox.arrived(), name="next message")
    await asyncio.wait({arriving, ended}, return_when=asyncio.FIRST_COMPLETED)
    arriving.cancel()
    return not ended.done()
