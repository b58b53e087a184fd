"""reconcile: the units of an ended order that still has a holder are returned."""

from __future__ import annotations

from seckill.adapters import redis_keys
from seckill.inventory.reservations import Holding, UnitReturn


async def test_F5_units_of_an_ended_order_return_as_always(
    open_sale, shop, found_by, audited, assert_balanced, bring_back
):
    sale = await open_sale(stock=5, per_order_max=2)
    (ann,) = await shop.order(sale, "ann", quantity=2)
    await shop.release(ann)
    await shop.return_all(sale)
    await bring_back(sale, ann)

    assert await found_by(sale) == [("give_back", "ann")]

    assert await shop.returns(sale) == {ann.order_id: 2}
    await shop.return_all(sale)
    assert await shop.left(sale) == 5
    assert [(a, d["units"]) for _, a, d in await audited(sale)] == [("reconcile.give_back", 2)]
    await assert_balanced(sale)


async def test_units_that_never_existed_do_not_go_on_sale(
    open_sale, shop, store, found_by, assert_balanced
):
    sale = await open_sale(stock=1)
    await shop.place_unseen(sale, "ghost")
    (late,) = await shop.grab(sale, "ann")
    await shop.place(late)
    assert await shop.states(sale, [late]) == ["rejected stock"]
    await shop.return_all(sale)
    assert await store.hget(redis_keys.sale(sale.sale_id), "corrections") == b"1"
    # The holder is back, and its correction is not made yet.
    await store.hset(redis_keys.holders(sale.sale_id), "ann", str(Holding(late.order_id, 1)))
    await store.hset(redis_keys.sale(sale.sale_id), "corrections", 0)

    assert ("give_back", "ann") in await found_by(sale)

    assert await shop.returns(sale) == {late.order_id: 0}


async def test_units_on_their_way_back_are_left_to_return_stock(open_sale, shop, found_by):
    sale = await open_sale()
    await shop.release(*await shop.order(sale, "ann"))
    assert await found_by(sale, times=3) == []


async def test_F6_units_that_returned_in_the_meantime_do_not_return_again(
    open_sale, shop, stock, found_by, bring_back
):
    sale = await open_sale(stock=2)
    (ann,) = await shop.order(sale, "ann")
    await shop.release(ann)
    await shop.return_all(sale)
    await bring_back(sale, ann)
    await found_by(sale)
    back = UnitReturn("ann", str(Holding(ann.order_id, 1)), 1)
    await stock.return_units(sale.sale_id, 1, [back])
    await shop.return_all(sale)
    assert await shop.left(sale) == 2
