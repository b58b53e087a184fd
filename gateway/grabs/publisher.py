"""Accepted batches on their way from the outbox to the broker.

Everything here is already safe in the outbox of Redis. A batch counts as published when the broker
has confirmed it. While the broker is unavailable a batch counts as published at once: it stays in
the outbox, from which the relay sends it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from gateway.grabs.traces import contexts_of, record_publish
from seckill import messages, metrics
from seckill.adapters import topology
from seckill.adapters.failures import RABBITMQ
from seckill.adapters.publisher import Publisher
from seckill.errors import Unavailable
from seckill.inventory.reservations import Grab
from seckill.log_lines import log_orders
from seckill.messages import MESSAGE_GRABS_MAX
from seckill.micro_batcher import MicroBatcher, Waiter
from seckill.outages import OUTAGES
from seckill.stage_times import StageTimes

log = logging.getLogger(__name__)

#: Publishes of one sale in flight: one on its way while the broker writes the other to disk.
PUBLISHES_MAX = 2
#: While the broker is unavailable, one batch a second is tried; the others stay in the outbox.
PROBE_S = 1.0
#: Bytes up to which a message waits for those of other sales. A larger one, of some 20 grabs, goes
#: by itself: a busy sale waits for no other, and as consumers take sales in turn, quiet sales do
#: not share the turn of a busy one.
SMALL = 1024
#: Publishes of small messages in flight. A confirmed publish costs the process some 280 us of CPU,
#: whatever is in it.
SMALL_PUBLISHES_MAX = 4


class ConfirmedPublish(Protocol):
    """What a sale's publisher needs of the one that all sales share."""

    async def publish(self, body: bytes) -> None:
        """Return when confirmed; raise Unavailable when that is not known."""


@dataclass(slots=True)
class _Batch:
    outbox_id: str
    epoch: int
    grabs: Sequence[Grab]
    times: StageTimes
    on_published: Callable[[], None]


class Breaker:
    """Open after one failed publish, shared by all sales of a process; probes once a second."""

    def __init__(self) -> None:
        self._retry_at: float | None = None
        #: When a publish last failed, while the breaker is open, by the monotonic clock.
        self.failed_at: float | None = None

    @property
    def open(self) -> bool:
        """Tell whether the broker counts as unavailable."""
        return self._retry_at is not None

    def may_publish(self) -> bool:
        """Tell whether to try now; while open, one caller a second gets yes."""
        if self._retry_at is None:
            return True
        now = asyncio.get_running_loop().time()
        if now < self._retry_at:
            return False
        self._retry_at = now + PROBE_S
        return True

    def succeeded(self) -> None:
        """Close again."""
        self._retry_at = self.failed_at = None

    def failed(self) -> None:
        """Open, or stay open: accepted grabs stay in the outbox until RabbitMQ is back."""
        self._retry_at = asyncio.get_running_loop().time() + PROBE_S
        self.failed_at = time.monotonic()


class GrabPublisher:
    """Publishes the batches of one sale; those that wait for a publish go out in one message."""

    def __init__(
        self,
        sale_id: str,
        publisher: ConfirmedPublish,
        breaker: Breaker,
        on_confirmed: Callable[[list[str]], None],
    ) -> None:
        self._sale_id = sale_id
        self._publisher = publisher
        self._breaker = breaker
        #: Gets the ids of the outbox entries that need not be kept any longer.
        self._on_confirmed = on_confirmed
        self._waiting: deque[_Batch] = deque()
        self._publishes: set[asyncio.Task[None]] = set()

    def enqueue(
        self,
        outbox_id: str,
        epoch: int,
        grabs: Sequence[Grab],
        times: StageTimes,
        on_published: Callable[[], None],
    ) -> None:
        """Publish a batch that lies in the outbox; call back when it counts as published."""
        self._waiting.append(_Batch(outbox_id, epoch, grabs, times, on_published))
        self._start_publishes()

    async def drain(self) -> None:
        """Wait until every publish in flight has ended."""
        while self._publishes:
            await asyncio.wait(self._publishes)

    def _start_publishes(self) -> None:
        while self._waiting and len(self._publishes) < PUBLISHES_MAX:
            if not self._breaker.may_publish():
                self._leave_in_outbox()
                return
            task = asyncio.create_task(self._publish(self._merge()), name="publish grabs")
            self._publishes.add(task)
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._publishes.discard(task)
        if task.cancelling():  # the event loop ends; a publish begun now would never be finished
            self._leave_in_outbox()
            return
        self._start_publishes()
        if not task.cancelled():
            task.result()  # a bug in here must be heard, not swallowed

    def _merge(self) -> list[_Batch]:
        """Take waiting batches of one epoch, as many as one message carries."""
        merged = [self._waiting.popleft()]
        size = len(merged[0].grabs)
        while self._waiting:
            following = self._waiting[0]
            size += len(following.grabs)
            if following.epoch != merged[0].epoch or size > MESSAGE_GRABS_MAX:
                break
            merged.append(self._waiting.popleft())
        return merged

    async def _publish(self, batches: list[_Batch]) -> None:
        outbox_ids = [batch.outbox_id for batch in batches]
        grabs = [grab for batch in batches for grab in batch.grabs]
        published_at = time.monotonic()
        for batch in batches:
            batch.times.published_at = published_at
        traces, start_ns = contexts_of(grabs), time.time_ns()
        body = messages.encode_place(self._sale_id, batches[0].epoch, outbox_ids, grabs, traces)
        try:
            await self._publisher.publish(body)
        except Unavailable as error:
            OUTAGES.failed(error)
            metrics.PUBLISH_FAILURES.inc()
            record_publish(traces, start_ns, len(grabs), error)
            self._log("grabs_left_in_outbox", "not confirmed, left in the outbox", grabs)
            self._breaker.failed()
        else:
            confirmed_at = time.monotonic()
            for batch in batches:
                batch.times.confirmed_at = confirmed_at
            record_publish(traces, start_ns, len(grabs))
            self._log("grabs_published", "published", grabs)
            self._breaker.succeeded()
            self._on_confirmed(outbox_ids)
        finally:
            # Whatever went wrong, the batch lies in the outbox: the grabs are accepted.
            for batch in batches:
                batch.on_published()

    def _leave_in_outbox(self) -> None:
        while self._waiting:
            batch = self._waiting.popleft()
            self._log("grabs_left_in_outbox", "left in the outbox", batch.grabs)
            batch.on_published()

    def _log(self, event: str, text: str, grabs: Sequence[Grab]) -> None:
        if log.isEnabledFor(logging.DEBUG):
            ids = [grab.order_id for grab in grabs]
            log_orders(log, logging.DEBUG, event, text, ids, sale_id=self._sale_id)


class BatchedPublisher:
    """Publishes to orders.place for all sales; small messages together, as one multi-sale message.

    See `seckill.messages.MultiSaleMessage`.
    """

    def __init__(self, publisher: Publisher, *, timeout_s: float) -> None:
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._small = MicroBatcher(
            self._send, max_batch=messages.PARTS_MAX, max_calls=SMALL_PUBLISHES_MAX
        )

    async def publish(self, body: bytes) -> None:
        """Return when confirmed; raise Unavailable when that is not known.

        A small message waits at most the time limit of a publish for others, before it has a time
        limit of its own.
        """
        if len(body) > SMALL:
            await self._publisher.publish(topology.ORDERS_PLACE, body)
            return
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await self._small.submit(body)
        except TimeoutError as error:
            raise Unavailable(
                "RabbitMQ: other messages are not confirmed", store=RABBITMQ
            ) from error

    async def _send(self, waiting: Sequence[Waiter[bytes, None]]) -> None:
        bodies = [waiter.item for waiter in waiting]
        body = messages.encode_multi_sale(bodies) if len(bodies) > 1 else bodies[0]
        await self._publisher.publish(topology.ORDERS_PLACE, body)
        for waiter in waiting:
            waiter.answer(None)


BATCHED_PUBLISHER = web.AppKey("batched_publisher", BatchedPublisher)
BREAKER = web.AppKey("breaker", Breaker)
