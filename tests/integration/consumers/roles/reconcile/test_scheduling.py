"""reconcile: large and small sales, and several processes, share the work."""

from __future__ import annotations

import asyncio

import pytest

from consumers.roles.reconcile import COMPARISONS_MAX
from seckill.adapters import redis_keys
from seckill.consistency import diff


async def test_a_second_process_leaves_the_work_to_the_first(all_three, found_by, make_role):
    first, second = make_role(), make_role()
    await first.compare()
    assert await found_by(all_three, times=3, role=second) == []
    assert len(await found_by(all_three, times=1, role=first)) == 3


async def test_sales_that_have_changed_share_the_time(open_sale, shop, make_role, monkeypatch):
    _, ann_s, bob_s = [await open_sale() for _ in range(3)]
    role = make_role()
    await role.compare()
    shares = {}

    async def compare(redis, db, sale_id, *, age_ms, share):
        shares[sale_id] = share
        return diff.Comparison({}, is_quiet=True)

    monkeypatch.setattr(diff, "compare_sale", compare)
    await shop.grab(ann_s, "ann")
    await shop.grab(bob_s, "bob")
    await role.compare()

    assert shares == {ann_s.sale_id: 0.5, bob_s.sale_id: 0.5}


class Comparisons:
    """Real comparisons, but for one sale: its comparison lasts until it is cancelled."""

    def __init__(self, large):
        self._large = large
        self._real = diff.compare_sale
        self.begun, self.cancelled = [], []

    async def compare(self, redis, db, sale_id, **how):
        self.begun.append(sale_id)
        if sale_id == self._large.sale_id:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.append(sale_id)
        return await self._real(redis, db, sale_id, **how)


@pytest.fixture
async def large(open_sale):
    return await open_sale()


@pytest.fixture
def comparisons(large, monkeypatch):
    monkeypatch.setattr("consumers.roles.reconcile.PASS_S", 0.05)
    comparisons = Comparisons(large)
    monkeypatch.setattr(diff, "compare_sale", comparisons.compare)
    return comparisons


async def test_small_sales_do_not_wait_for_a_large_one(
    open_sale, shop, make_role, large, comparisons, running, eventually
):
    """Nor for the second comparison."""
    small = [await open_sale() for _ in range(COMPARISONS_MAX + 1)]
    for sale in small:
        await shop.grab(sale, "ann")

    async with running(make_role()):
        await eventually(
            lambda: all(comparisons.begun.count(sale.sale_id) > 1 for sale in small),
            "a second time",
        )

    assert comparisons.begun.count(large.sale_id) == 1
    assert comparisons.cancelled == [large.sale_id], "cancelled when the role was stopped"


async def test_the_lock_is_kept_while_a_comparison_lasts(
    make_role, large, comparisons, store, monkeypatch, running, eventually
):
    monkeypatch.setattr("consumers.roles.reconcile.LOCK_S", 2.0)
    left_ms = []

    async def was_renewed():
        if comparisons.begun:
            left_ms.append(await store.pttl(redis_keys.reconcile_lock()))
        return left_ms and left_ms[-1] > min(left_ms)

    async with running(make_role()):
        await eventually(was_renewed, "the lock has more time left than before")
        assert await make_role().compare() == {}, "another process finds it taken"
        assert comparisons.begun == [large.sale_id]


async def test_a_process_that_has_lost_the_lock_cancels_its_comparisons(
    make_role, large, comparisons, store, running, eventually
):
    async with running(make_role()):
        await eventually(lambda: comparisons.begun, "the comparison has begun")
        await store.set(redis_keys.reconcile_lock(), "another process")
        await eventually(lambda: comparisons.cancelled, "it is cancelled")
    await store.delete(redis_keys.reconcile_lock())
