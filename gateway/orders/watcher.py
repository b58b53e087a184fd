"""Watches the orders of all event streams of a process, and gives each stream its changes.

However many clients wait, PostgreSQL gets one query a tick, and none while no client waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from gateway.http.problems import Problem, Refused
from seckill.errors import Unavailable
from seckill.orders.orders import KnownState, Order

#: Time between two looks: half of the least `next_poll_ms`, so that a stream is ahead of polls.
TICK_S = 0.25
#: Streams of one buyer: a few devices. Beyond it the oldest ends, most likely a connection that
#: their phone has lost without a word. Without a limit one buyer could take every slot.
PER_BUYER_MAX = 4


class StreamSlot:
    """What one stream is to send next.

    It holds the newest change only: a slow client has no use for older ones, and costs no memory.
    """

    def __init__(self, order_id: str, buyer_id: str) -> None:
        self.order_id = order_id
        self.buyer_id = buyer_id
        #: The state that the client knows; "" while the first is being read.
        self.seen = ""
        self.ended = False
        self._change: Order | None = None
        self._news = asyncio.Event()

    def put(self, order: Order) -> None:
        """Leave a change here, in place of one that was not taken yet."""
        self.seen = order.state
        self._change = order
        self._news.set()

    def end(self) -> None:
        """End the stream; a change that lies here is still taken."""
        self.ended = True
        self._news.set()

    async def next_change(self, within_s: float) -> Order | None:
        """Take the next change; None when there was none in time, or the stream has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
        self._news.clear()
        change, self._change = self._change, None
        return change


class OrderWatcher:
    """Gives out `slots_max` slots, and looks after the orders of all that are taken."""

    def __init__(
        self,
        find_changed: Callable[[Collection[KnownState]], Awaitable[Iterable[Order]]],
        *,
        slots_max: int,
        tick_s: float = TICK_S,
    ) -> None:
        self._find_changed = find_changed
        self._slots_max = slots_max
        self._tick_s = tick_s
        self._slots: list[StreamSlot] = []
        self._ticking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def slots_taken(self) -> int:
        """Return how many slots are taken, those of streams that are about to end as well."""
        return len(self._slots)

    @contextmanager
    def slot(self, order_id: str, buyer_id: str) -> Iterator[StreamSlot]:
        """Take a slot for one client until the block is left, or refuse."""
        if len(self._slots) >= self._slots_max:
            raise Refused(Problem.OVERLOADED, "all event streams are taken; poll the order instead")
        of_buyer = [slot for slot in self._slots if slot.buyer_id == buyer_id]
        for slot in of_buyer[: 1 - PER_BUYER_MAX]:
            slot.end()
        taken = StreamSlot(order_id, buyer_id)
        self._slots.append(taken)
        if self._closed:
            taken.end()
        elif self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick(), name="order watcher")
            self._ticking.add_done_callback(self._finish)
        try:
            yield taken
        finally:
            self._slots.remove(taken)

    def close(self) -> None:
        """End all streams, and any that is still to begin."""
        self._closed = True
        self._end_all()
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self) -> None:
        while self._slots:
            await asyncio.sleep(self._tick_s)
            with suppress(Unavailable):  # streams go on, and get what they missed afterwards
                await self._look()

    async def _look(self) -> None:
        # No stream that reads its first state while the query runs: that state may be newer than
        # the answer.
        slots = [slot for slot in self._slots if slot.seen]
        if not slots:
            return
        seen = {KnownState(slot.order_id, slot.seen) for slot in slots}
        changed = {order.order_id: order for order in await self._find_changed(seen)}
        for slot in slots:
            order = changed.get(slot.order_id)
            if order is not None and order.state != slot.seen:
                slot.put(order)

    def _finish(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            self._end_all()  # a stream that will never get an event must not look alive
            task.result()  # the loop logs the bug that this raises

    def _end_all(self) -> None:
        for slot in self._slots:
            slot.end()


ORDER_WATCHER = web.AppKey("order_watcher", OrderWatcher)
