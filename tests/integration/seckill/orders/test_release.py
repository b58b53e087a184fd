"""release() and cancel_unplaced(): the only ways out of a live order, each taken once."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from consumers.roles.sweep import BATCH_MAX, GRACE_S
from seckill.inventory.reservations import Holding
from seckill.order_ids import new_order_id
from seckill.orders import orders


@pytest.fixture
def expire(db):
    """Cancel what is overdue among these, as the timer does."""

    async def call(*placements):
        ids = [p.order_id for p in placements]
        return await orders.release(
            db, ids, to_state="cancelled", reason="expired", overdue_only=True
        )

    return call


@pytest.fixture
def cancel_unplaced(db):
    """Cancel a grab that is still in the queue, as DELETE does."""

    async def call(placement):
        holding = Holding(placement.order_id, placement.quantity)
        return await orders.cancel_unplaced(
            db, placement.sale_id, placement.buyer_id, holding, reason="buyer"
        )

    return call


async def test_released_order_gives_its_units_back(open_sale, shop, assert_balanced):
    sale = await open_sale(per_order_max=2)
    (ann,) = await shop.order(sale, "ann", quantity=2)
    (bob,) = await shop.order(sale, "bob")

    assert await shop.release(ann) == [ann.order_id]

    assert await shop.states(sale, [ann, bob]) == ["cancelled buyer", "pending"]
    assert await shop.inventory(sale) == (9, 1, 0)
    assert await shop.returns(sale) == {ann.order_id: 2}
    await shop.return_all(sale)
    assert await shop.left(sale) == 9
    await assert_balanced(sale)


async def test_F6_second_release_gives_nothing_back(open_sale, shop, assert_balanced):
    """Not even when the units of the first are in Redis already."""
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.release(ann)
    await shop.return_all(sale)

    assert await shop.release(ann) == []

    assert await shop.returns(sale) == {}
    assert await shop.inventory(sale) == (10, 0, 0)
    assert await shop.left(sale) == 10
    await assert_balanced(sale)


async def test_an_id_named_twice_is_released_once(open_sale, shop):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")

    assert await shop.release(ann, ann) == [ann.order_id]

    assert await shop.inventory(sale) == (10, 0, 0)


async def test_F6_of_ten_callers_one_wins(open_sale, shop, assert_balanced):
    sale = await open_sale(stock=100)
    placed = await shop.order(sale, *(f"buyer-{i}" for i in range(20)))

    ended = await asyncio.gather(*(shop.release(*placed) for _ in range(10)))

    assert sorted(map(len, ended)) == [0] * 9 + [20]
    assert await shop.inventory(sale) == (100, 0, 0)
    assert len(await shop.returns(sale)) == 20
    await shop.return_all(sale)
    await assert_balanced(sale)


async def sweep(db) -> list[str]:
    """Do as the role does, and return the orders that this call ended."""
    return await orders.release_overdue(db, grace_s=GRACE_S, limit=BATCH_MAX)


async def test_F26_timer_sweep_and_buyer_together_cancel_once(
    open_sale, shop, expire, db, assert_balanced
):
    sale = await open_sale(stock=100)
    placed = await shop.order(sale, *(f"buyer-{i}" for i in range(20)))
    await shop.let_expire(*placed)
    mine = {p.order_id for p in placed}

    ended = await asyncio.gather(
        *(call() for call in [partial(expire, *placed), partial(sweep, db)] * 3),
        *(shop.release(*placed[i::4]) for i in range(4)),
    )

    assert sorted(i for one in ended for i in one if i in mine) == sorted(mine)
    assert await shop.inventory(sale) == (100, 0, 0)
    assert len(await shop.returns(sale)) == 20
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_F9_no_order_is_cancelled_before_the_window_ends(open_sale, shop, expire):
    sale = await open_sale()
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.let_expire(ann)

    assert await expire(ann, bob) == [ann.order_id]

    assert await shop.states(sale, [ann, bob]) == ["cancelled expired", "pending"]
    assert await shop.inventory(sale) == (9, 1, 0)


@pytest.mark.parametrize("state", ["paying", "paid", "cancelled", "rejected", "refunded"])
async def test_F16_only_pending_orders_end(open_sale, shop, expire, db, state):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await db.execute(
        "UPDATE orders SET state = $2, version = 7 WHERE order_id = $1", ann.order_id, state
    )

    assert await shop.release(ann) == []
    assert await expire(ann) == []

    assert await shop.states(sale, [ann]) == [state]
    assert await shop.inventory(sale) == (9, 1, 0)
    assert await shop.returns(sale) == {}


async def test_F9_a_payment_in_progress_when_the_timer_fires_decides(
    open_sale, shop, expire, db, blocked, eventually
):
    """The timer waits for the row and then finds it paying."""
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    async with db.acquire() as payment, payment.transaction():
        await payment.execute(
            "UPDATE orders SET state = 'paying' WHERE order_id = $1", ann.order_id
        )
        expiring = asyncio.create_task(expire(ann))
        await eventually(blocked, "release() waits for the order's row")

    assert await expiring == []

    assert await shop.states(sale, [ann]) == ["paying"]
    assert await shop.returns(sale) == {}


async def test_orders_of_several_sales_end_in_one_call(open_sale, shop):
    one, other = await open_sale(), await open_sale()
    ann, bob = await shop.order(one, "ann", "bob")
    (cat,) = await shop.order(other, "cat")

    assert sorted(await shop.release(ann, bob, cat)) == sorted(p.order_id for p in (ann, bob, cat))

    assert await shop.inventory(one) == (10, 0, 0)
    assert await shop.inventory(other) == (10, 0, 0)


async def test_unknown_ids_end_nothing(shop, db):
    assert await orders.release(db, [new_order_id(1)], to_state="cancelled", reason="x") == []


# Grabs without a row.


async def test_unplaced_grab_is_cancelled_by_a_tombstone(
    open_sale, shop, cancel_unplaced, assert_balanced
):
    sale = await open_sale(per_order_max=2)
    (ann,) = await shop.grab(sale, "ann", quantity=2)

    assert await cancel_unplaced(ann) is True

    assert await shop.states(sale, [ann]) == ["cancelled buyer"]
    assert await shop.returns(sale) == {ann.order_id: 2}
    assert await shop.inventory(sale) == (10, 0, 0)
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_F7_message_behind_a_tombstone_is_a_duplicate(
    open_sale, shop, cancel_unplaced, db, outcomes, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    await cancel_unplaced(ann)
    await shop.return_all(sale)

    assert outcomes(await orders.place(db, [ann])) == {ann.order_id: "duplicate"}

    assert await shop.states(sale, [ann]) == ["cancelled buyer"]
    assert await shop.inventory(sale) == (10, 0, 0)
    await assert_balanced(sale)


async def test_F6_unplaced_grab_returns_its_units_once(open_sale, shop, cancel_unplaced):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    await cancel_unplaced(ann)
    await shop.return_all(sale)

    assert await cancel_unplaced(ann) is False

    assert await shop.returns(sale) == {}
    assert await shop.left(sale) == 10


async def test_placed_order_is_not_cancelled_as_unplaced(open_sale, shop, cancel_unplaced):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")

    assert await cancel_unplaced(ann) is False

    assert await shop.states(sale, [ann]) == ["pending"]
    assert await shop.inventory(sale) == (9, 1, 0)
    assert await shop.returns(sale) == {}


async def test_F7_cancelling_and_placing_at_once_leaves_one_truth(
    open_sale, shop, cancel_unplaced, db, assert_balanced
):
    sale = await open_sale(stock=100)
    grabs = await shop.grab(sale, *(f"buyer-{i}" for i in range(60)))

    results = await asyncio.gather(
        *(
            call(grab)
            for grab in grabs
            for call in (cancel_unplaced, lambda g: orders.place(db, [g]))
        )
    )

    cancelled = [grab for grab, won in zip(grabs, results[::2], strict=True) if won]
    placed = [grab for grab, refused in zip(grabs, results[1::2], strict=True) if not refused]
    assert sorted(cancelled + placed) == sorted(grabs)
    assert set(await shop.states(sale, cancelled)) <= {"cancelled buyer"}
    assert set(await shop.states(sale, placed)) <= {"pending"}
    assert (await shop.inventory(sale))[1] == len(placed)
    await shop.return_all(sale)
    await assert_balanced(sale)
