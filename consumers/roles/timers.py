"""Timers: what tells, once its payment window is over, that an order is perhaps not paid.

Each configured way is started for each placed order after the commit. What tells, and how often,
does not matter: `orders.release` decides. What fails here is left to the sweep.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from redis.asyncio import Redis

from config.field_types import DELAY_QUEUE, KEY_EXPIRY
from seckill import messages
from seckill.adapters import redis_keys
from seckill.adapters.rabbitmq import Publisher
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.orders.orders import Placement
from seckill.sales.directory import SaleDirectory

log = logging.getLogger(__name__)

#: After a timer could not be started. RabbitMQ 3.10 leaves a queue that confirms nothing when it is
#: killed while making one (docs/runbook.md says how to mend it); orders must not wait for that.
PAUSE_S = 10.0
#: Between two starts: orders that follow each other closely share their timers' message.
APART_S = 0.1

#: Starts the timers of orders that have this window in seconds, or raises Unavailable.
Way = Callable[[int, Sequence[Placement]], Awaitable[None]]


def ways_of(timeouts: Collection[str], publisher: Publisher, redis: Redis) -> dict[str, Way]:
    """Return the configured ways by their names."""

    async def delay_queue(window_s: int, placed: Sequence[Placement]) -> None:
        await publisher.publish_timer(
            window_s, messages.encode_expire([p.order_id for p in placed])
        )

    async def key_expiry(window_s: int, placed: Sequence[Placement]) -> None:
        with redis_errors_as_unavailable():
            async with redis.pipeline(transaction=False) as pipe:
                for order in placed:
                    pipe.set(
                        redis_keys.expiry(order.sale_id, order.order_id), "", px=window_s * 1000
                    )
                await pipe.execute()

    all_ways: dict[str, Way] = {DELAY_QUEUE: delay_queue, KEY_EXPIRY: key_expiry}
    return {name: way for name, way in all_ways.items() if name in timeouts}


class Timers:
    """Starts every configured way for placed orders, one call a way and payment window.

    Beside the placing, so that no order waits for the timers of others: a sale that this process
    has not heard of is read within a second, and a broker takes its time to confirm.
    """

    def __init__(self, sales: SaleDirectory, ways: Mapping[str, Way]) -> None:
        self._sales = sales
        self._ways = ways
        #: (way, payment window) -> monotonic time before which it is left alone.
        self._paused_until: dict[tuple[str, int], float] = {}
        #: Orders that came while the timers of others were being started, or soon after.
        self._waiting: list[Placement] = []
        self._starting: asyncio.Task[None] | None = None

    def start(self, placed: Sequence[Placement]) -> None:
        """Start them soon; should that fail, or the process end, the sweep finds the orders."""
        self._waiting += placed
        if self._waiting and self._starting is None:
            self._starting = asyncio.create_task(self._start_waiting(), name="timers")
            self._starting.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled():
            task.result()  # a bug in here must be heard, not swallowed
            self.start(())  # those that came since its last look

    async def _start_waiting(self) -> None:
        while self._waiting:
            placed, self._waiting = self._waiting, []
            await self._start_all(placed)
            await asyncio.sleep(APART_S)

    async def _start_all(self, placed: Sequence[Placement]) -> None:
        by_sale: dict[str, list[Placement]] = defaultdict(list)
        for placement in placed:
            by_sale[placement.sale_id].append(placement)
        by_window: dict[int, list[Placement]] = defaultdict(list)
        try:
            for sale_id, of_sale in by_sale.items():
                sale = await self._sales.get(sale_id)
                if sale is not None:
                    by_window[sale.payment_window_s] += of_sale
        except Unavailable as error:
            log.warning("no timer for %d orders, the sweep will find them: %s", len(placed), error)
        for window_s, group in by_window.items():
            for name in self._ways:
                await self._start(name, window_s, group)

    async def _start(self, name: str, window_s: int, placed: Sequence[Placement]) -> None:
        now = time.monotonic()
        if now < self._paused_until.get((name, window_s), now):
            return
        try:
            await self._ways[name](window_s, placed)
        except Unavailable as error:
            # Not with every batch again: each try holds the next batch up for a time limit.
            self._paused_until[name, window_s] = now + PAUSE_S
            log.warning(
                "no timers of %d s by %s for %g s, the sweep cancels instead: %s",
                window_s,
                name,
                PAUSE_S,
                error,
            )
