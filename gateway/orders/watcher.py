"""The one watcher of orders in a process: it tells event streams what has changed.

However many clients wait, PostgreSQL sees one query a tick, and none while nobody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from gateway.http.problems import Problem, Refused
from seckill.errors import Unavailable
from seckill.orders.orders import KnownState, Order

#: Between two looks: half of what a poller is told at least, so that who streams hears first.
TICK_S = 0.25
#: Streams of one buyer: a few devices. Beyond it the oldest ends, most likely a connection that his
#: phone has lost without a word. Without a limit one buyer could take every place.
PER_BUYER_MAX = 4


class StreamSlot:
    """One client's place.

    It holds the newest change only: who is late has no use for older ones, and costs no memory.
    """

    def __init__(self, order_id: str, buyer_id: str) -> None:
        self.order_id = order_id
        self.buyer_id = buyer_id
        #: The state that the client was told last; "" while the first is being read.
        self.seen = ""
        self.ended = False
        self._change: Order | None = None
        self._news = asyncio.Event()

    def tell(self, order: Order) -> None:
        """Leave a change here, instead of one that was not taken yet."""
        self.seen = order.state
        self._change = order
        self._news.set()

    def end(self) -> None:
        """Let the client go; a change that lies here is still taken."""
        self.ended = True
        self._news.set()

    async def next_change(self, within_s: float) -> Order | None:
        """Take the next change; None when there was none in time, or the place has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
        self._news.clear()
        change, self._change = self._change, None
        return change


class OrderWatcher:
    """Hands out `places_max` places, and looks after the orders of all that are taken."""

    def __init__(
        self,
        find_changed: Callable[[Collection[KnownState]], Awaitable[Iterable[Order]]],
        *,
        places_max: int,
        tick_s: float = TICK_S,
    ) -> None:
        self._find_changed = find_changed
        self._places_max = places_max
        self._tick_s = tick_s
        self._places: list[StreamSlot] = []
        self._ticking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def places_taken(self) -> int:
        """Return how many places are taken, by clients that are just being let go as well."""
        return len(self._places)

    @contextmanager
    def place(self, order_id: str, buyer_id: str) -> Iterator[StreamSlot]:
        """Take a place for one client until the block is left, or refuse."""
        if len(self._places) >= self._places_max:
            raise Refused(Problem.OVERLOADED, "all event streams are taken; poll the order instead")
        his = [place for place in self._places if place.buyer_id == buyer_id]
        for place in his[: 1 - PER_BUYER_MAX]:
            place.end()
        taken = StreamSlot(order_id, buyer_id)
        self._places.append(taken)
        if self._closed:
            taken.end()
        elif self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick(), name="order-watch")
            self._ticking.add_done_callback(self._finish)
        try:
            yield taken
        finally:
            self._places.remove(taken)

    def close(self) -> None:
        """Let all clients go, and any that still comes."""
        self._closed = True
        self._let_all_go()
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self) -> None:
        while self._places:
            await asyncio.sleep(self._tick_s)
            with suppress(Unavailable):  # whoever waits goes on waiting, and hears of it afterwards
                await self._look()

    async def _look(self) -> None:
        # Nobody who learns his first state while the query runs: it may be newer than the answer.
        places = [place for place in self._places if place.seen]
        if not places:
            return
        seen = {KnownState(place.order_id, place.seen) for place in places}
        changed = {order.order_id: order for order in await self._find_changed(seen)}
        for place in places:
            order = changed.get(place.order_id)
            if order is not None and order.state != place.seen:
                place.tell(order)

    def _finish(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            self._let_all_go()  # a stream that will never hear anything must not look alive
            task.result()  # a bug in here must be heard, not swallowed

    def _let_all_go(self) -> None:
        for place in self._places:
            place.end()


ORDER_WATCHER = web.AppKey("order_watch", OrderWatcher)
