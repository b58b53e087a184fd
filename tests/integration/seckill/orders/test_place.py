"""place(): accepted grabs become pending orders, or rows that say why not; never anything else."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import asyncpg
import pytest

from seckill.inventory.reservations import Holding
from seckill.orders import orders


@pytest.fixture
def place(shop):
    return shop.place


async def test_placed_grabs_are_pending_and_frozen(open_sale, shop, place, assert_balanced):
    sale = await open_sale(stock=10, per_order_max=2)
    grabs = [*await shop.grab(sale, "ann", "bob"), *await shop.grab(sale, "cat", quantity=2)]

    assert await place(*grabs) == []

    assert await shop.states(sale, grabs) == ["pending"] * 3
    assert await shop.inventory(sale) == (6, 4, 0)
    assert await shop.returns(sale) == {}
    await assert_balanced(sale)


async def test_row_carries_price_and_payment_window(open_sale, shop, place, db):
    sale = await open_sale(payment_window_s=900, per_order_max=3)
    (grab,) = await shop.grab(sale, "ann", quantity=3)

    before = await db.fetchval("SELECT clock_timestamp()")
    await place(grab)
    after = await db.fetchval("SELECT clock_timestamp()")

    (order,) = await orders.find_many(db, [grab.order_id])
    assert (order.sale_id, order.buyer_id, order.quantity) == (sale.sale_id, "ann", 3)
    assert order.amount_cents == 3 * sale.price_cents
    assert before <= order.pay_by - timedelta(seconds=900) <= after


async def test_F20_a_repeat_is_a_duplicate_and_changes_nothing(
    open_sale, shop, place, outcomes, db, assert_balanced
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    await place(*grabs)
    everything = "SELECT o, i FROM orders o JOIN inventory i USING (sale_id) WHERE sale_id = $1"
    before = await db.fetch(everything, sale.sale_id)

    again = await place(*grabs)

    assert outcomes(again) == {grab.order_id: "duplicate" for grab in grabs}
    assert await db.fetch(everything, sale.sale_id) == before
    await assert_balanced(sale)


async def test_a_value_with_a_space_in_it_is_refused(open_sale, shop, place):
    sale = await open_sale()
    batch = [shop.wish(sale, "ann"), shop.wish(sale, "bob b")]

    with pytest.raises(ValueError, match="ann bob b"):
        await place(*batch)

    assert await shop.inventory(sale) == (10, 0, 0)


async def test_repeat_of_part_of_a_batch_places_the_rest(open_sale, shop, place, outcomes):
    sale = await open_sale()
    ann, bob, cat = await shop.grab(sale, "ann", "bob", "cat")
    await place(ann)

    assert outcomes(await place(ann, bob, cat)) == {ann.order_id: "duplicate"}

    assert await shop.inventory(sale) == (7, 3, 0)


async def test_F20_an_order_id_twice_in_a_batch_counts_once(open_sale, shop, place):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")

    assert await place(ann, ann) == []

    assert await shop.inventory(sale) == (9, 1, 0)


async def test_F20_a_second_live_order_of_a_buyer_is_rejected_and_its_units_return(
    open_sale, shop, place, outcomes
):
    sale = await open_sale(per_order_max=2)
    (first,) = await shop.order(sale, "ann")
    second = shop.wish(sale, "ann", 2)

    assert outcomes(await place(second)) == {second.order_id: "rejected another_order"}

    assert await shop.states(sale, [first, second]) == ["pending", "rejected another_order"]
    assert await shop.returns(sale) == {second.order_id: 2}
    assert await shop.inventory(sale) == (9, 1, 0)


async def test_F20_of_two_orders_of_a_buyer_in_one_batch_one_lives(open_sale, shop, place):
    sale = await open_sale()
    both = [shop.wish(sale, "ann"), shop.wish(sale, "ann")]

    (refused,) = await place(*both)

    assert sorted(await shop.states(sale, both)) == ["pending", "rejected another_order"]
    assert await shop.returns(sale) == {refused.order_id: 1}
    assert await shop.inventory(sale) == (9, 1, 0)


async def test_a_buyer_whose_order_was_cancelled_can_order_again(
    open_sale, shop, place, assert_balanced
):
    sale = await open_sale()
    (first,) = await shop.order(sale, "ann")
    await shop.release(first)
    await shop.return_all(sale)
    (second,) = await shop.grab(sale, "ann")

    assert await place(second) == []

    assert await shop.states(sale, [first, second]) == ["cancelled buyer", "pending"]
    await assert_balanced(sale)


async def test_same_buyer_may_order_in_two_sales(open_sale, shop, place):
    one, other = await open_sale(), await open_sale()

    assert await place(*await shop.grab(one, "ann"), *await shop.grab(other, "ann")) == []


async def test_F1_stock_guard_freezes_the_head_in_grab_order(open_sale, shop, place, outcomes):
    """Ids in falling order, so that grab order is not the order of the rows."""
    sale = await open_sale(stock=3)
    grabs = sorted((shop.wish(sale, f"buyer-{i}") for i in range(5)), reverse=True)

    refused = outcomes(await place(*grabs))

    assert refused == {grab.order_id: "rejected stock" for grab in grabs[3:]}
    assert await shop.states(sale, grabs) == ["pending"] * 3 + ["rejected stock"] * 2
    assert await shop.inventory(sale) == (0, 3, 0)
    assert await shop.returns(sale) == {grab.order_id: 0 for grab in grabs[3:]}


async def test_stock_guard_rejects_the_whole_tail(open_sale, shop, place):
    """Once one does not fit, a smaller one behind it does not overtake."""
    sale = await open_sale(stock=3, per_order_max=2)
    grabs = [shop.wish(sale, "ann", 2), shop.wish(sale, "bob", 2), shop.wish(sale, "cat", 1)]

    await place(*grabs)

    assert await shop.states(sale, grabs) == ["pending", "rejected stock", "rejected stock"]
    assert await shop.inventory(sale) == (1, 2, 0)


async def test_stock_guard_with_nothing_left_rejects_all(open_sale, shop, place):
    sale = await open_sale(stock=1)
    await shop.order(sale, "ann")
    late = shop.wish(sale, "bob")

    await place(late)

    assert await shop.states(sale, [late]) == ["rejected stock"]
    assert await shop.inventory(sale) == (0, 1, 0)


async def test_F8_older_epoch_is_rejected_and_returns_nothing(open_sale, shop, place, outcomes):
    sale = await open_sale()
    old = await shop.grab(sale, "ann", "bob")
    await shop.bump_epoch(sale)

    assert set(outcomes(await place(*old)).values()) == {"rejected epoch"}

    assert await shop.states(sale, old) == ["rejected epoch"] * 2
    assert await shop.inventory(sale) == (10, 0, 0)
    assert await shop.returns(sale) == {}
    assert set(outcomes(await place(*old)).values()) == {"duplicate"}


async def test_F8_epochs_may_mix_in_a_batch(open_sale, shop, place, outcomes):
    """Messages from before and after a rebuild, merged into one transaction."""
    sale = await open_sale()
    await shop.bump_epoch(sale)
    old, new = shop.wish(sale, "ann"), shop.wish(sale, "ann", epoch=2)

    assert outcomes(await place(old, new)) == {old.order_id: "rejected epoch"}

    assert await shop.states(sale, [old, new]) == ["rejected epoch", "pending"]
    assert await shop.inventory(sale) == (9, 1, 0)


async def test_F14_a_refused_sale_does_not_affect_the_others(open_sale, shop, place, outcomes):
    good, short, rebuilt = await open_sale(), await open_sale(stock=1), await open_sale()
    await shop.bump_epoch(rebuilt)
    batch = [
        ann := shop.wish(rebuilt, "ann"),
        bob := shop.wish(short, "bob"),
        shop.wish(good, "ann"),
        cat := shop.wish(short, "cat"),
        shop.wish(good, "bob"),
        unsold := replace_sale(shop.wish(good, "cat"), "no-such-sale"),
    ]

    assert outcomes(await place(*batch)) == {
        ann.order_id: "rejected epoch",
        cat.order_id: "rejected stock",
        unsold.order_id: "unknown_sale",
    }

    assert await shop.inventory(good) == (8, 2, 0)
    assert await shop.inventory(short) == (0, 1, 0)
    assert await shop.states(short, [bob, cat]) == ["pending", "rejected stock"]
    assert await shop.inventory(rebuilt) == (10, 0, 0)


async def test_unknown_sale_leaves_no_row(open_sale, shop, place, outcomes, db):
    lost = replace_sale(shop.wish(await open_sale(), "ann"), "no-such-sale")

    assert outcomes(await place(lost)) == {lost.order_id: "unknown_sale"}

    assert await orders.find_many(db, [lost.order_id]) == [None]


def replace_sale(placement, sale_id):
    return placement._replace(sale_id=sale_id)


# Several connections at once.


async def test_F18_winners_on_a_hot_row_all_become_orders(open_sale, shop, place, assert_balanced):
    sale = await open_sale(stock=400)
    batches = [
        await shop.grab(sale, *(f"buyer-{batch}-{i}" for i in range(5))) for batch in range(80)
    ]

    refused = await asyncio.gather(*(place(*batch) for batch in batches))

    assert refused == [[]] * 80
    assert await shop.inventory(sale) == (0, 400, 0)
    await assert_balanced(sale)


async def test_F1_connections_at_once_never_sell_more_than_there_is(open_sale, shop, place):
    sale = await open_sale(stock=33)
    batches = [[shop.wish(sale, f"buyer-{b}-{i}") for i in range(5)] for b in range(16)]

    await asyncio.gather(*(place(*batch) for batch in batches))

    states = Counter((await shop.rows(sale)).values())
    assert states == {("pending", None): 33, ("rejected", "stock"): 47}
    assert await shop.inventory(sale) == (0, 33, 0)
    assert list((await shop.returns(sale)).values()) == [0] * 47


async def test_F20_copies_of_a_batch_at_once_place_it_once(open_sale, shop, place, assert_balanced):
    sale = await open_sale(stock=100)
    batch = await shop.grab(sale, *(f"buyer-{i}" for i in range(20)))

    refused = await asyncio.gather(*(place(*batch) for _ in range(8)))

    assert sorted(len(r) for r in refused) == [0] + [20] * 7
    assert {r.outcome for copy in refused for r in copy} == {"duplicate"}
    assert await shop.inventory(sale) == (80, 20, 0)
    await assert_balanced(sale)


async def test_F20_orders_of_one_buyer_on_several_connections_leave_one_alive(
    open_sale, shop, place
):
    sale = await open_sale(stock=100)
    wishes = [shop.wish(sale, "ann") for _ in range(8)]

    await asyncio.gather(*(place(wish) for wish in wishes))

    states = sorted(await shop.states(sale, wishes))
    assert states == ["pending"] + ["rejected another_order"] * 7
    assert await shop.inventory(sale) == (99, 1, 0)


async def test_F8_epoch_raised_while_place_waits_rejects_all(
    open_sale, shop, place, db, blocked, eventually, outcomes
):
    """A rebuild that holds the inventory row when place() has inserted its rows already."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    async with db.acquire() as rebuild, rebuild.transaction():
        await rebuild.execute("SELECT FROM inventory WHERE sale_id = $1 FOR UPDATE", sale.sale_id)
        placing = asyncio.create_task(place(*grabs))
        await eventually(blocked, "place() waits for the inventory row")
        await rebuild.execute(
            "UPDATE inventory SET epoch = epoch + 1 WHERE sale_id = $1", sale.sale_id
        )

    assert set(outcomes(await placing).values()) == {"rejected epoch"}

    assert await shop.states(sale, grabs) == ["rejected epoch"] * 2
    assert await shop.inventory(sale) == (10, 0, 0)
    assert await shop.returns(sale) == {}


async def test_F18_a_version_changed_while_place_waits_is_no_refusal(
    open_sale, shop, place, db, blocked, eventually
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    async with db.acquire() as other, other.transaction():
        await other.execute(
            "UPDATE inventory SET version = version + 1 WHERE sale_id = $1", sale.sale_id
        )
        placing = asyncio.create_task(place(*grabs))
        await eventually(blocked, "place() waits for the inventory row")

    assert await placing == []

    assert await shop.inventory(sale) == (8, 2, 0)


async def test_F1_stock_taken_while_place_waits_is_not_sold_again(
    open_sale, shop, place, db, blocked, eventually, outcomes
):
    sale = await open_sale(stock=2)
    first, second = shop.wish(sale, "ann"), shop.wish(sale, "bob")
    async with db.acquire() as other, other.transaction():
        await other.execute(
            "UPDATE inventory SET available = 1, sold = 1 WHERE sale_id = $1", sale.sale_id
        )
        placing = asyncio.create_task(place(first, second))
        await eventually(blocked, "place() waits for the inventory row")

    assert outcomes(await placing) == {second.order_id: "rejected stock"}

    assert await shop.inventory(sale) == (0, 1, 1)


async def test_F32_place_and_release_never_deadlock(open_sale, shop, place, assert_balanced):
    """Batches that name two sales in opposite orders, while orders of both are released."""
    one, other = await open_sale(stock=2000), await open_sale(stock=2000)
    live: list = []

    for turn in range(25):
        names = [f"buyer-{turn}-{i}" for i in range(4)]
        mine = await shop.grab(one, *names), await shop.grab(other, *names)
        more = [f"more-{turn}-{i}" for i in range(4)]
        yours = await shop.grab(one, *more), await shop.grab(other, *more)

        results = await asyncio.gather(  # raises DeadlockDetectedError, should one surface
            place(*mine[0], *mine[1]),
            shop.release(*live),
            place(*yours[1], *yours[0]),
            shop.release(*reversed(live)),
            place(*mine[1], *mine[0]),
            shop.release(*live[1::2], *live[::2]),
        )

        assert sorted(results[1] + results[3] + results[5]) == sorted(g.order_id for g in live)
        assert await shop.inventory(one) == (1992, 8, 0)
        assert await shop.inventory(other) == (1992, 8, 0)
        live = [*mine[0], *mine[1], *yours[0], *yours[1]]
        await asyncio.gather(*(shop.return_all(sale) for sale in (one,)))

    await shop.return_all(other)
    await assert_balanced(one)
    await assert_balanced(other)


async def test_values_that_do_not_fit_are_an_error_and_leave_nothing(open_sale, shop, place):
    """What the consumer bisects on; see test_place_orders."""
    sale = await open_sale()
    good, bad = shop.wish(sale, "ann"), shop.wish(sale, "bob", epoch=2**63)

    with pytest.raises(asyncpg.DataError):
        await place(good, bad)

    assert await shop.rows(sale) == {}
    assert await shop.inventory(sale) == (10, 0, 0)


async def test_holder_and_row_name_the_same_order(open_sale, shop, place):
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann")
    await place(grab)

    assert await shop.holders(sale) == {"ann": Holding(grab.order_id, 1)}
    assert list(await shop.rows(sale)) == [grab.order_id]
