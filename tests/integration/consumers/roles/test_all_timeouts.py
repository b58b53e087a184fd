"""The roles that end unpaid orders: each alone, and all together, return each unit once."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from consumers.roles import sweep
from consumers.roles.expire_orders import ExpireOrders
from consumers.roles.sweep import Sweep
from consumers.runtime.poll_role import PollRole
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE

ALL = ("delay_queue", "key_expiry", "sweep")


@pytest.fixture
def make_role(queue_role, store, db, listener, monkeypatch):
    """How to make the role that ends orders in each of these ways."""
    monkeypatch.setattr(sweep, "GRACE_S", 0)  # so that all of them want the orders at once
    return {
        "delay_queue": lambda: queue_role(ORDERS_EXPIRE, ExpireOrders(store, db).handle),
        "key_expiry": lambda: PollRole("key_expiry", listener.run_once, idle_s=0),
        "sweep": lambda: PollRole("sweep", Sweep(store, db).run_once, idle_s=0.01),
    }


@pytest.mark.parametrize("chosen", [*((name,) for name in ALL), ALL], ids="+".join)
async def test_F6_F26_F22_each_unit_returns_once_by_any_role_and_by_all(
    open_sale,
    shop,
    send_grabs,
    queue_role,
    place_orders,
    running,
    make_role,
    eventually,
    subscribed,
    assert_balanced,
    chosen,
):
    sale = await open_sale(stock=40, payment_window_s=1)
    patient = await open_sale(stock=10, payment_window_s=900)
    grabs = await shop.grab(sale, *(f"b{n}" for n in range(30)))
    kept = await shop.grab(patient, "ann")
    handler = place_orders(*chosen)

    async with AsyncExitStack() as stack:
        for name in chosen:
            await stack.enter_async_context(running(make_role[name]()))
        if "key_expiry" in chosen:
            await eventually(subscribed, "the role listens")
        await stack.enter_async_context(running(queue_role(ORDERS_PLACE, handler.handle)))
        await send_grabs(*kept)
        await send_grabs(*grabs)

        async def all_ended():
            states = await shop.states(sale, grabs)
            return states == ["cancelled expired"] * 30

        await eventually(all_ended, "all are cancelled")

    assert await shop.states(patient, kept) == ["pending"]
    assert await shop.inventory(sale) == (40, 0, 0)
    await shop.return_all(sale)
    assert await shop.left(sale) == 40
    await assert_balanced(sale)
