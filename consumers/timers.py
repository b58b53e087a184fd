"""Payment timers: `place_orders` starts them for each placed order, after the commit.

Each configured kind of timer later names the order to the role that cancels it. A timer may be
missing, early or doubled: `orders.release` decides, and the sweep finds an order without a timer.
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
from seckill.adapters.publisher import Publisher
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.messages import EXPIRE_ORDERS_MAX
from seckill.orders.orders import Placement
from seckill.sales.directory import SaleDirectory

#: No new attempt for so long after a timer could not be started. RabbitMQ 3.10 that is killed while
#: it makes a queue leaves one that confirms nothing (docs/runbook.md says how to mend it); orders
#: must not wait for such a queue.
PAUSE_S = 10.0
#: Between two starts: orders that follow each other closely share the message of their timers.
APART_S = 0.1

#: Starts the timers of orders with this window in seconds; raises Unavailable if it cannot.
StartTimers = Callable[[int, Sequence[Placement]], Awaitable[None]]

log = logging.getLogger(__name__)


def timer_kinds(
    timeouts: Collection[str], publisher: Publisher, redis: Redis
) -> dict[str, StartTimers]:
    """Return the configured kinds of timers by name."""

    async def delay_queue(window_s: int, placed: Sequence[Placement]) -> None:
        order_ids = [p.order_id for p in placed]
        for start in range(0, len(order_ids), EXPIRE_ORDERS_MAX):
            part = order_ids[start : start + EXPIRE_ORDERS_MAX]
            await publisher.publish_timer(window_s, messages.encode_expire(part))

    async def key_expiry(window_s: int, placed: Sequence[Placement]) -> None:
        with redis_errors_as_unavailable():
            async with redis.pipeline(transaction=False) as pipe:
                for order in placed:
                    key = redis_keys.expiry(order.sale_id, order.order_id)
                    pipe.set(key, "", px=window_s * 1000)
                await pipe.execute()

    kinds: dict[str, StartTimers] = {DELAY_QUEUE: delay_queue, KEY_EXPIRY: key_expiry}
    return {name: start for name, start in kinds.items() if name in timeouts}


class Timers:
    """Starts all kinds of timers for placed orders, with one call for each payment window.

    It works in a task of its own, so that placing does not wait for it: a sale that this process
    does not know yet is read once a second, and a confirm of the broker takes time.
    """

    def __init__(self, sales: SaleDirectory, kinds: Mapping[str, StartTimers]) -> None:
        self._sales = sales
        self._kinds = kinds
        #: (kind, payment window) -> monotonic time of the next attempt.
        self._paused_until: dict[tuple[str, int], float] = {}
        #: Orders whose timers are not started yet.
        self._waiting: list[Placement] = []
        self._starting: asyncio.Task[None] | None = None

    def start(self, placed: Sequence[Placement]) -> None:
        """Start the timers soon; if that fails, or the process ends, the sweep finds the orders."""
        self._waiting += placed
        if self._waiting and self._starting is None:
            self._starting = asyncio.create_task(self._start_waiting(), name="timers")
            self._starting.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled():
            task.result()  # raises a bug of the task instead of hiding it
            self.start(())  # orders that came after the last round

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
            log.debug("no timer for %d orders, the sweep will find them: %s", len(placed), error)
        for window_s, group in by_window.items():
            for kind in self._kinds:
                await self._start(kind, window_s, group)

    async def _start(self, kind: str, window_s: int, placed: Sequence[Placement]) -> None:
        now = time.monotonic()
        if now < self._paused_until.get((kind, window_s), now):
            return
        try:
            await self._kinds[kind](window_s, placed)
        except Unavailable as error:
            # Each failed attempt lasts a whole time limit, so it is not made with every batch.
            self._paused_until[kind, window_s] = now + PAUSE_S
            log.debug(
                "no timers of %d s by %s for %g s, the sweep cancels instead: %s",
                window_s,
                kind,
                PAUSE_S,
                error,
            )
