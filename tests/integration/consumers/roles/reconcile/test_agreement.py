"""reconcile: what two comparisons agree on is repaired, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from seckill.adapters import redis_keys, topology
from seckill.consistency import diff
from seckill.consistency.diff import RepairAction
from seckill.inventory import stock_returns


async def test_one_comparison_is_not_enough(all_three, found_by, audited):
    assert await found_by(all_three, times=1) == []
    assert await audited(all_three) == []


async def test_two_comparisons_find_all_kinds(all_three, found_by):
    found = await found_by(all_three)
    assert sorted(found) == [("adopt", "bob"), ("give_back", "ann"), ("republish", "cat")]


async def test_a_report_changes_nothing(all_three, found_by, shop, store, queues, audited):
    sale = all_three
    before = [
        await store.dump(key(sale.sale_id))
        for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders)
    ]
    assert len(await found_by(sale, times=4, applies=False)) == 3
    now = [
        await store.dump(key(sale.sale_id))
        for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders)
    ]
    assert now == before
    assert await audited(sale) == []
    assert await shop.returns(sale) == {}
    assert await queues.take_all(topology.ORDERS_PLACE) == []


@pytest.mark.parametrize("lost", ["fenced", "stock", "sale"])
async def test_nothing_is_done_to_a_sale_that_needs_a_rebuild(all_three, store, found_by, lost):
    if lost == "fenced":
        await store.hset(redis_keys.sale(all_three.sale_id), "state", "fenced")
    else:
        await store.delete(getattr(redis_keys, lost)(all_three.sale_id))
    assert await found_by(all_three, times=4) == []


async def test_nothing_is_done_to_a_sale_that_is_fenced_before_the_repair(
    all_three, shop, store, differences_of, repair_all
):
    sale = all_three
    differences = await differences_of(sale)
    await store.hset(redis_keys.sale(sale.sale_id), "state", "fenced")
    holders = await shop.holders(sale)

    done = await repair_all(sale, differences)
    assert done[RepairAction.ADOPT] == 0
    assert await shop.holders(sale) == holders


async def test_a_sale_that_does_not_change_is_not_compared_again(
    open_sale, shop, store, db, make_role, monkeypatch
):
    sale = await open_sale()
    await shop.order(sale, "ann")
    compared, real = [], diff.compare_sale

    async def compare(redis, db, sale_id, **age):
        compared.append(sale_id)
        return await real(redis, db, sale_id, **age)

    monkeypatch.setattr(diff, "compare_sale", compare)
    role = make_role()
    for _ in range(3):
        await role.compare()
    assert compared.count(sale.sale_id) == 1
    await store.hdel(redis_keys.holders(sale.sale_id), "ann")
    await role.compare()
    assert compared.count(sale.sale_id) == 2


async def test_a_busy_sale_is_never_repaired(
    open_sale, shop, db, stock, found_by, make_role, assert_balanced, audited
):
    """Grabs, orders and returns at full speed, and one comparison after the other."""
    sale = await open_sale(stock=200)
    role = make_role()

    async def buyer(number):
        orders = await shop.order(sale, f"b{number}")
        if number % 2:
            await shop.release(*orders)
            await stock_returns.return_batch(db, stock)

    crowd = asyncio.gather(*(buyer(n) for n in range(60)))
    while not crowd.done():
        assert await found_by(sale, times=1, role=role) == []
    await crowd
    await shop.return_all(sale)
    await assert_balanced(sale)
    assert await audited(sale) == []
