"""Timers: orders that are placed closely after each other share a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

from consumers.timers import Timers
from seckill.orders.orders import Placement
from seckill.sales.directory import SaleDirectory


class Directory:
    """Knows every sale; each has a payment window of 900 s."""

    async def get(self, sale_id: str) -> SimpleNamespace:
        return SimpleNamespace(sale_id=sale_id, payment_window_s=900)


def order(order_id: str) -> Placement:
    return Placement(order_id, "spring", f"buyer-{order_id}", 1, 1)


async def test_a_lone_order_is_timed_at_once_and_those_that_follow_it_together() -> None:
    started: asyncio.Queue[tuple[int, list[str]]] = asyncio.Queue()

    async def way(window_s: int, placed: Sequence[Placement]) -> None:
        started.put_nowait((window_s, [each.order_id for each in placed]))

    timers = Timers(cast(SaleDirectory, Directory()), {"test": way})
    timers.start([order("a")])
    assert await started.get() == (900, ["a"])
    timers.start([order("b")])
    timers.start([order("c"), order("d")])
    assert await started.get() == (900, ["b", "c", "d"])
    assert started.empty()
