"""reconcile: a live order that Redis forgot gets its holder back."""

from __future__ import annotations

from seckill.adapters import redis_keys
from seckill.consistency import diff, repair
from seckill.consistency.diff import RepairAction
from seckill.inventory.reservations import Holding


async def test_F8_a_live_order_that_redis_forgot_is_adopted(
    open_sale, shop, found_by, audited, assert_balanced, lose_holder
):
    sale = await open_sale(stock=5, per_order_max=2)
    ann, _ = await shop.order(sale, "ann", "bob", quantity=2)
    await lose_holder(sale, ann)
    assert await shop.left(sale) == 3

    assert await found_by(sale) == [("adopt", "ann")]

    assert (await shop.holders(sale))["ann"] == Holding(ann.order_id, 2)
    assert await shop.left(sale) == 1
    assert [(a, d["orders"]) for _, a, d in await audited(sale)] == [
        ("reconcile.adopt", [ann.order_id])
    ]
    await assert_balanced(sale)


async def test_F8_units_that_were_sold_again_become_a_correction_until_one_is_refused(
    open_sale, shop, store, found_by, assert_balanced, lose_holder
):
    sale = await open_sale(stock=1)
    (ann,) = await shop.order(sale, "ann")
    await lose_holder(sale, ann)
    (bob,) = await shop.grab(sale, "bob")  # the same unit, sold twice by Redis

    assert ("adopt", "ann") in await found_by(sale)

    assert await store.hget(redis_keys.sale(sale.sale_id), "corrections") == b"-1"
    await shop.place(bob)
    assert await shop.states(sale, [ann, bob]) == ["pending", "rejected stock"]
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_a_buyer_with_another_holder_is_adopted_after_its_order_has_ended(
    open_sale, shop, found_by, make_role, assert_balanced, lose_holder
):
    sale = await open_sale(stock=3)
    (ann,) = await shop.order(sale, "ann")
    await lose_holder(sale, ann)
    (again,) = await shop.grab(sale, "ann")
    role = make_role()
    assert await found_by(sale, role=role) == [("adopt", "ann")]
    assert (await shop.holders(sale))["ann"].order_id == again.order_id

    await shop.place(again)
    assert await shop.states(sale, [again]) == ["rejected another_order"]
    await shop.return_all(sale)
    await found_by(sale, role=role)
    assert (await shop.holders(sale))["ann"].order_id == ann.order_id
    await assert_balanced(sale)


async def test_an_order_that_ends_after_the_comparison_is_not_adopted(
    open_sale, shop, assert_balanced, lose_holder, differences_of, repair_all
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await lose_holder(sale, ann)
    differences = await differences_of(sale)
    await shop.release(ann)
    await shop.return_all(sale)

    done = await repair_all(sale, differences)

    assert done[RepairAction.ADOPT] == 0
    assert await shop.holders(sale) == {}
    await assert_balanced(sale)


async def test_a_repair_in_the_background_rests_after_each_step(
    open_sale, shop, monkeypatch, assert_balanced, lose_holder, differences_of, repair_all
):
    sale = await open_sale()
    for order in await shop.order(sale, "ann", "bob"):
        await lose_holder(sale, order)
    differences = await differences_of(sale)
    monkeypatch.setattr(repair, "CALL_MAX", 1)
    shares = []

    async def rest(began, share):
        shares.append(share)
        assert len(await shop.holders(sale)) == len(shares)

    monkeypatch.setattr(repair, "rest", rest)
    await repair_all(sale, differences, share=0.5)

    assert shares == [0.5, 0.5]
    await assert_balanced(sale)


async def test_many_differences_are_repaired_in_steps(
    open_sale, shop, found_by, make_role, monkeypatch, assert_balanced, lose_holder
):
    monkeypatch.setattr(repair, "CALL_MAX", 3)
    monkeypatch.setattr(diff, "DIFFERENCES_MAX", 10)
    monkeypatch.setattr("seckill.consistency.diff.CALL_MAX", 4)
    sale = await open_sale(stock=30)
    for order in await shop.order(sale, *(f"b{n:02}" for n in range(30))):
        await lose_holder(sale, order)
    role = make_role()
    counts = [len(await found_by(sale, role=role)) for _ in range(3)]
    assert all(10 < count <= 14 for count in counts[:2])
    assert sum(counts) == 30
    await assert_balanced(sale)
