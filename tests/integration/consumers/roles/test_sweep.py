"""sweep: overdue orders end whatever became of their timers."""

from __future__ import annotations

import asyncio

import pytest

from consumers.roles import sweep
from consumers.roles.sweep import Sweep


@pytest.fixture(autouse=True)
async def nothing_else_is_overdue(db):
    """Leave aside what other tests let expire."""
    await db.execute("UPDATE orders SET pay_by = now() + interval '1 day' WHERE state = 'pending'")


@pytest.fixture
def sweeper(store, db):
    return Sweep(store, db)


async def test_F21_an_overdue_order_without_a_timer_is_cancelled(
    open_sale, shop, sweeper, assert_balanced
):
    sale = await open_sale()
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.let_expire(ann)

    assert (await sweeper.run_once()).done == 1

    assert await shop.states(sale, [ann, bob]) == ["cancelled expired", "pending"]
    assert await shop.inventory(sale) == (9, 1, 0)
    await shop.return_all(sale)
    await assert_balanced(sale)
    assert (await sweeper.run_once()).done == 0


async def test_F26_what_is_just_overdue_is_left_to_the_timers(
    open_sale, shop, sweeper, monkeypatch
):
    monkeypatch.setattr(sweep, "GRACE_S", 2 * 3600.0)
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)  # an hour ago

    assert (await sweeper.run_once()).done == 0

    assert await shop.states(sale, [ann]) == ["pending"]


@pytest.mark.parametrize("state", ["paying", "paid"])
async def test_F9_an_overdue_order_that_is_being_paid_is_left(open_sale, shop, sweeper, db, state):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await db.execute("UPDATE orders SET state = $2 WHERE order_id = $1", ann.order_id, state)

    assert (await sweeper.run_once()).done == 0

    assert await shop.states(sale, [ann]) == [state]


async def test_F26_orders_that_another_process_works_on_are_skipped(open_sale, shop, sweeper, db):
    sale = await open_sale()
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.let_expire(ann, bob)

    async with db.acquire() as other, other.transaction():
        await other.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", ann.order_id)
        assert (await sweeper.run_once()).done == 1
        assert await shop.states(sale, [bob]) == ["cancelled expired"]

    assert (await sweeper.run_once()).done == 1
    assert await shop.states(sale, [ann]) == ["cancelled expired"]


async def test_F6_sweeps_at_once_end_each_order_once(open_sale, shop, sweeper, assert_balanced):
    sale = await open_sale(stock=50)
    placed = await shop.order(sale, *(f"buyer-{i}" for i in range(30)))
    await shop.let_expire(*placed)

    ended = await asyncio.gather(*(sweeper.run_once() for _ in range(6)))

    assert sum(polled.done for polled in ended) == len(placed)
    assert await shop.inventory(sale) == (50, 0, 0)
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_role_goes_on_at_once_after_a_full_batch(open_sale, shop, sweeper, monkeypatch):
    monkeypatch.setattr(sweep, "BATCH_MAX", 2)
    sale = await open_sale()
    placed = await shop.order(sale, "ann", "bob", "cat")
    await shop.let_expire(*placed)

    assert [(await sweeper.run_once()).more for _ in range(2)] == [True, False]

    assert await shop.inventory(sale) == (10, 0, 0)
