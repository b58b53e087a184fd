"""Timers: orders that are placed closely after each other share a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

from redis.asyncio import Redis

from config.field_types import DELAY_QUEUE
from consumers.timers import Timers, timer_kinds
from seckill import messages
from seckill.adapters.publisher import Publisher
from seckill.order_ids import new_order_id
from seckill.orders.orders import Placement
from seckill.sales.directory import SaleDirectory


class Directory:
    """Knows every sale; each has a payment window of 900 s."""

    async def get(self, sale_id: str) -> SimpleNamespace:
        return SimpleNamespace(sale_id=sale_id, payment_window_s=900)


def order(order_id: str) -> Placement:
    return Placement(order_id, "spring", f"buyer-{order_id}", 1, 1)


async def test_timers_that_start_together_fit_into_messages_of_bounded_size() -> None:
    sent = []

    class Counting:
        async def publish_timer(self, window_s: int, body: bytes) -> None:
            sent.append(len(messages.decode_expire(body)))

    kinds = timer_kinds([DELAY_QUEUE], cast(Publisher, Counting()), cast(Redis, None))
    await kinds[DELAY_QUEUE](900, [order(new_order_id(1)) for _ in range(2_500)])
    assert sent == [1024, 1024, 452]


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
