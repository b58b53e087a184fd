"""What the tests of reconcile share: stores that disagree, and the role that compares them."""

from __future__ import annotations

import json

import pytest

from consumers.roles.reconcile import Reconcile
from seckill.adapters import redis_keys, topology
from seckill.consistency import diff
from seckill.consistency.repair import Reconciler
from seckill.inventory.reservations import Holding


@pytest.fixture(autouse=True)
async def other_sales_are_left_alone(store, monkeypatch):
    """Hide the sales of other tests; let comparisons follow each other at once, and end."""
    left = [name async for name in store.scan_iter("sk:*:sale")]
    await store.delete(redis_keys.reconcile_lock(), *left)
    monkeypatch.setattr("consumers.roles.reconcile.COMPARISONS_APART_S", 0.0)
    monkeypatch.setattr("consumers.roles.reconcile.SHARE", 1.0)
    monkeypatch.setattr("consumers.roles.reconcile.PASS_S", 60.0)


@pytest.fixture
def age():
    return {"age_ms": 30_000}


@pytest.fixture
def all_are_old(age):
    """Let every holder be old enough to have lost its message."""
    age["age_ms"] = -60_000


@pytest.fixture
def make_role(store, db, publisher, queues, age):
    async def count_waiting():
        return sum([await queues.size(name) for name in topology.GRAB_QUEUES])

    def make(*, applies=True, publisher=publisher):
        reconciler = Reconciler(store, db, publisher, count_waiting, actor="reconcile")
        return Reconcile(store, db, reconciler, applies=applies, **age)

    return make


@pytest.fixture
def found_by(make_role):
    """Compare so many times; return what the last comparison acted on, as (action, buyer)."""

    async def compare(sale, *, times=2, role=None, **how):
        role = role or make_role(**how)
        for _ in range(times):
            acted = await role.compare()
        return [(str(d.action), d.buyer_id) for d in acted.get(sale.sale_id, [])]

    return compare


@pytest.fixture
def differences_of(store, db):
    """Return the differences that one comparison finds, those of young holders included."""

    async def compare(sale):
        comparison = await diff.compare_sale(store, db, sale.sale_id, age_ms=-60_000)
        return list(comparison.differences.values())

    return compare


@pytest.fixture
def repair_all(store, db, publisher, queues):
    """Repair differences; without `count_waiting`, no message waits in any queue."""

    async def none():
        return 0

    async def repair(sale, differences, *, count_waiting=none, **how):
        reconciler = Reconciler(store, db, publisher, count_waiting, actor="test")
        return await reconciler.repair(sale.sale_id, 1, differences, **how)

    return repair


@pytest.fixture
def audited(db):
    async def read(sale):
        rows = await db.fetch(
            "SELECT actor, action, details FROM audit WHERE sale_id = $1 ORDER BY audit_id",
            sale.sale_id,
        )
        return [(row[0], row[1], json.loads(row[2])) for row in rows]

    return read


@pytest.fixture
def lose_holder(store):
    """Lose a holder and add its units to the stock, as in a Redis that went back in time."""

    async def lose(sale, placement):
        async with store.pipeline(transaction=True) as pipe:
            pipe.hdel(redis_keys.holders(sale.sale_id), placement.buyer_id)
            pipe.incrby(redis_keys.stock(sale.sale_id), placement.quantity)
            await pipe.execute()

    return lose


@pytest.fixture
def bring_back(store):
    """Let a holder whose units have returned reappear, with its units."""

    async def bring(sale, placement):
        async with store.pipeline(transaction=True) as pipe:
            holding = str(Holding(placement.order_id, placement.quantity))
            pipe.hset(redis_keys.holders(sale.sale_id), placement.buyer_id, holding)
            pipe.decrby(redis_keys.stock(sale.sale_id), placement.quantity)
            await pipe.execute()

    return bring


@pytest.fixture
async def all_three(open_sale, shop, lose_holder, bring_back, all_are_old):
    """A sale with one difference of each kind."""
    sale = await open_sale(stock=9)
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.release(ann)
    await shop.return_all(sale)
    await bring_back(sale, ann)
    await lose_holder(sale, bob)
    await shop.grab(sale, "cat")
    return sale
