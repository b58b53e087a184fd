"""place_orders: while PostgreSQL is unavailable, messages are held and nothing is lost."""

from __future__ import annotations

import asyncpg
import pytest

from seckill.adapters.topology import ORDERS_PLACE
from seckill.errors import Unavailable

UNAVAILABLE = {
    "Unavailable": Unavailable,
    "connection lost": lambda: asyncpg.ConnectionDoesNotExistError("connection was closed"),
    "shutting down": lambda: asyncpg.AdminShutdownError("shutting down"),
    "too slow": TimeoutError,
    "deadlock": lambda: asyncpg.DeadlockDetectedError("deadlock detected"),
    "lock timeout": lambda: asyncpg.LockNotAvailableError("lock timeout"),
}


@pytest.mark.parametrize("error", UNAVAILABLE.values(), ids=UNAVAILABLE)
async def test_F23_while_postgresql_is_unavailable_messages_are_held_and_then_placed(
    open_sale,
    shop,
    send_grabs,
    handler,
    queue_role,
    running,
    eventually,
    calls,
    queues,
    assert_all_acknowledged,
    error,
):
    """They are not dead-lettered, not returned to the broker in a loop, and not halved."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    calls.fail = [error(), error()]
    deliveries = []

    async def handle(batch):
        deliveries.extend(m.redelivered for m in batch)
        await handler.handle(batch)

    await send_grabs(*grabs)
    async with running(queue_role(ORDERS_PLACE, handle)):
        await eventually(lambda: shop.rows(sale), "rows")

    assert calls.seen == [[p.order_id for p in grabs]] * 3
    assert deliveries == [False] * 3
    assert await shop.states(sale, grabs) == ["pending"] * 2
    assert await queues.dead(ORDERS_PLACE) == []
    await assert_all_acknowledged(shop.wish(sale, "cat"))


async def test_F23_a_bad_entry_is_dead_lettered_once_though_its_message_is_held(
    open_sale, shop, send_grabs, handler, queue_role, running, eventually, calls, dead_entries
):
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    calls.fail = [Unavailable(), Unavailable()]
    await send_grabs(good, bad=["x"])

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "rows")  # and the batch in flight is finished

    assert [entries for entries, _ in await dead_entries()] == [["x"]]
