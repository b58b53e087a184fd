"""reconcile: what the stores do not agree on is repaired name by name, after two looks."""

from __future__ import annotations

import asyncio
import json

import pytest

from consumers.roles.fence import Fence
from consumers.roles.reconcile import COMPARISONS_MAX, Reconcile
from seckill import messages
from seckill.adapters import redis_keys, topology
from seckill.consistency import diff, fencing, repair
from seckill.consistency.diff import RepairAction
from seckill.consistency.fencing import FenceReason
from seckill.consistency.repair import Reconciler
from seckill.dead_letters.store import open_order_ids
from seckill.errors import Unavailable
from seckill.inventory import stock_returns
from seckill.inventory.reservations import Holding, UnitReturn


@pytest.fixture(autouse=True)
async def other_sales_are_left_alone(store, monkeypatch):
    """Take what other tests left out of sight; let looks follow each other at once, and end."""
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
    async def waiting():
        return sum([await queues.size(name) for name in topology.GRAB_QUEUES])

    def make(*, applies=True, publisher=publisher):
        reconciler = Reconciler(store, db, publisher, waiting, actor="reconcile")
        return Reconcile(store, db, reconciler, applies=applies, **age)

    return make


@pytest.fixture
def found_by(make_role):
    """Look so many times; return what was acted on in the last look, as (action, buyer)."""

    async def look(sale, *, times=2, role=None, **how):
        role = role or make_role(**how)
        for _ in range(times):
            acted = await role.compare()
        return [(str(d.action), d.buyer_id) for d in acted.get(sale.sale_id, [])]

    return look


@pytest.fixture
def audited(db):
    async def read(sale):
        rows = await db.fetch(
            "SELECT actor, action, details FROM audit WHERE sale_id = $1 ORDER BY audit_id",
            sale.sale_id,
        )
        return [(row[0], row[1], json.loads(row[2])) for row in rows]

    return read


async def forget(store, sale, placement):
    """Lose a holder and give its unit to the stock, as in a Redis that went back in time."""
    async with store.pipeline(transaction=True) as pipe:
        pipe.hdel(redis_keys.holders(sale.sale_id), placement.buyer_id)
        pipe.incrby(redis_keys.stock(sale.sale_id), placement.quantity)
        await pipe.execute()


async def bring_back(store, sale, placement):
    """Let a holder that was given back reappear, with its unit."""
    async with store.pipeline(transaction=True) as pipe:
        holding = str(Holding(placement.order_id, placement.quantity))
        pipe.hset(redis_keys.holders(sale.sale_id), placement.buyer_id, holding)
        pipe.decrby(redis_keys.stock(sale.sale_id), placement.quantity)
        await pipe.execute()


# A holder without a row.


async def test_F13_a_grab_whose_message_was_lost_is_published_again(
    open_sale, shop, all_are_old, found_by, queues, audited
):
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann")

    assert await found_by(sale) == [("republish", "ann")]

    (message,) = await queues.take(topology.ORDERS_PLACE, 1)
    placing = messages.decode_place(message.body)
    assert (placing.sale_id, placing.epoch, placing.outbox_mark) == (sale.sale_id, 1, 0)
    assert placing.grabs == [(grab.order_id, "ann", 1)]
    assert await audited(sale) == [
        ("reconcile", "reconcile.republish", {"orders": [grab.order_id], "units": 1})
    ]


async def test_a_young_holder_is_on_its_way_and_left_alone(open_sale, shop, found_by, queues):
    sale = await open_sale()
    await shop.grab(sale, "ann")
    assert await found_by(sale, times=3) == []
    assert await queues.take_all(topology.ORDERS_PLACE) == []


async def test_F24_nothing_is_published_while_the_queue_has_work(
    open_sale, shop, all_are_old, found_by, make_role, queues
):
    """Consumers that are down for an hour find one more copy, not one for every look."""
    sale = await open_sale()
    await shop.grab(sale, "ann")
    await found_by(sale, times=9, role=make_role())
    assert len(await queues.take_all(topology.ORDERS_PLACE)) == 1


async def test_F13_what_an_emptied_broker_lost_is_published_in_one_pass(
    open_sale, shop, all_are_old, found_by, queues, monkeypatch
):
    monkeypatch.setattr(repair, "CALL_MAX", 2)
    sale = await open_sale()
    await shop.grab(sale, *"abcde")
    await found_by(sale)
    taken = [
        messages.decode_place(m.body).grabs for m in await queues.take(topology.ORDERS_PLACE, 3)
    ]
    assert sorted(grab.buyer_id for grabs in taken for grab in grabs) == list("abcde")


async def test_what_waits_for_an_operator_is_left_to_him(
    open_sale, shop, all_are_old, found_by, db, queues, monkeypatch
):
    sale = await open_sale()
    ann, _ = await shop.grab(sale, "ann", "bob")

    async def named(*_):
        return await open_order_ids(db, sale.sale_id) | {ann.order_id}

    monkeypatch.setattr(diff, "open_order_ids", named)
    assert await found_by(sale) == [("republish", "bob")]


async def test_a_broker_that_does_not_answer_leaves_everything_as_it_is(
    open_sale, shop, all_are_old, make_role, audited
):
    sale = await open_sale()
    await shop.grab(sale, "ann")

    class Away:
        async def publish(self, *_):
            raise Unavailable("no confirm")

    role = make_role(publisher=Away())
    await role.compare()
    with pytest.raises(Unavailable):
        await role.compare()
    assert await audited(sale) == []


# A holder of an order that has ended.


async def test_F5_a_holder_of_an_ended_order_is_given_back_by_the_usual_way(
    open_sale, shop, store, found_by, audited, assert_balanced
):
    sale = await open_sale(stock=5, per_order_max=2)
    (ann,) = await shop.order(sale, "ann", quantity=2)
    await shop.release(ann)
    await shop.return_all(sale)
    await bring_back(store, sale, ann)

    assert await found_by(sale) == [("give_back", "ann")]

    assert await shop.returns(sale) == {ann.order_id: 2}
    await shop.return_all(sale)
    assert await shop.left(sale) == 5
    assert [(a, d["units"]) for _, a, d in await audited(sale)] == [("reconcile.give_back", 2)]
    await assert_balanced(sale)


async def test_units_that_never_were_do_not_go_on_sale(
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


# A live order without a holder.


async def test_F8_a_live_order_that_redis_forgot_is_adopted(
    open_sale, shop, store, found_by, audited, assert_balanced
):
    sale = await open_sale(stock=5, per_order_max=2)
    ann, _ = await shop.order(sale, "ann", "bob", quantity=2)
    await forget(store, sale, ann)
    assert await shop.left(sale) == 3

    assert await found_by(sale) == [("adopt", "ann")]

    assert (await shop.holders(sale))["ann"] == Holding(ann.order_id, 2)
    assert await shop.left(sale) == 1
    assert [(a, d["orders"]) for _, a, d in await audited(sale)] == [
        ("reconcile.adopt", [ann.order_id])
    ]
    await assert_balanced(sale)


async def test_F8_units_that_were_sold_again_become_a_correction_until_one_is_refused(
    open_sale, shop, store, found_by, assert_balanced
):
    sale = await open_sale(stock=1)
    (ann,) = await shop.order(sale, "ann")
    await forget(store, sale, ann)
    (bob,) = await shop.grab(sale, "bob")  # the same unit, sold twice by Redis

    assert ("adopt", "ann") in await found_by(sale)

    assert await store.hget(redis_keys.sale(sale.sale_id), "corrections") == b"-1"
    await shop.place(bob)
    assert await shop.states(sale, [ann, bob]) == ["pending", "rejected stock"]
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_a_buyer_who_holds_something_else_is_adopted_after_that_has_ended(
    open_sale, shop, store, found_by, make_role, assert_balanced
):
    sale = await open_sale(stock=3)
    (ann,) = await shop.order(sale, "ann")
    await forget(store, sale, ann)
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


async def test_an_order_that_ends_after_the_look_is_not_adopted(
    open_sale, shop, store, db, make_role, publisher, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await forget(store, sale, ann)
    look = await diff.compare_sale(store, db, sale.sale_id, age_ms=-60_000)
    await shop.release(ann)
    await shop.return_all(sale)

    reconciler = Reconciler(store, db, publisher, None, actor="test")
    done = await reconciler.repair(sale.sale_id, 1, list(look.differences.values()))

    assert done[RepairAction.ADOPT] == 0
    assert await shop.holders(sale) == {}
    await assert_balanced(sale)


async def test_a_repair_in_the_background_rests_after_each_step(
    open_sale, shop, store, db, publisher, monkeypatch, assert_balanced
):
    sale = await open_sale()
    for order in await shop.order(sale, "ann", "bob"):
        await forget(store, sale, order)
    look = await diff.compare_sale(store, db, sale.sale_id, age_ms=-60_000)
    monkeypatch.setattr(repair, "CALL_MAX", 1)
    shares = []

    async def rest(began, share):
        shares.append(share)
        assert len(await shop.holders(sale)) == len(shares)

    monkeypatch.setattr(repair, "rest", rest)
    reconciler = Reconciler(store, db, publisher, None, actor="test")
    await reconciler.repair(sale.sale_id, 1, list(look.differences.values()), share=0.5)

    assert shares == [0.5, 0.5]
    await assert_balanced(sale)


# When it acts, and when it does not.


@pytest.fixture
async def all_three(open_sale, shop, store, all_are_old):
    """A sale with one difference of each kind."""
    sale = await open_sale(stock=9)
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.release(ann)
    await shop.return_all(sale)
    await bring_back(store, sale, ann)
    await forget(store, sale, bob)
    await shop.grab(sale, "cat")
    return sale


async def test_one_look_is_not_enough(all_three, found_by, shop, audited):
    assert await found_by(all_three, times=1) == []
    assert await audited(all_three) == []


async def test_two_looks_find_all_kinds(all_three, found_by):
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


async def test_nothing_is_done_to_a_sale_that_is_fenced_between_look_and_repair(
    all_three, shop, store, db, publisher, queues
):
    sale = all_three
    look = await diff.compare_sale(store, db, sale.sale_id, age_ms=-60_000)
    await store.hset(redis_keys.sale(sale.sale_id), "state", "fenced")
    holders = await shop.holders(sale)

    async def none():
        return 0

    reconciler = Reconciler(store, db, publisher, none, actor="test")
    done = await reconciler.repair(sale.sale_id, 1, list(look.differences.values()))
    assert done[RepairAction.ADOPT] == 0
    assert await shop.holders(sale) == holders


async def test_nothing_is_published_into_another_life(
    open_sale, shop, store, db, publisher, queues, all_are_old
):
    sale = await open_sale()
    await shop.grab(sale, "ann")
    look = await diff.compare_sale(store, db, sale.sale_id, age_ms=-60_000)
    await store.hset(redis_keys.sale(sale.sale_id), "epoch", 2)

    async def none():
        return 0

    reconciler = Reconciler(store, db, publisher, none, actor="test")
    done = await reconciler.repair(sale.sale_id, 1, list(look.differences.values()))
    assert done[RepairAction.REPUBLISH] == 0
    assert await queues.take_all(topology.ORDERS_PLACE) == []


async def test_a_grab_that_becomes_a_letter_while_its_sale_is_looked_at_is_not_published_again(
    open_sale, shop, store, db, publisher, queues, letters
):
    sale = await open_sale()
    ann, bob = await shop.grab(sale, "ann", "bob")
    look = await diff.compare_sale(store, db, sale.sale_id, age_ms=-60_000)

    async def none():
        await letters.naming(ann)
        return 0

    reconciler = Reconciler(store, db, publisher, none, actor="test")
    done = await reconciler.repair(sale.sale_id, 1, list(look.differences.values()))
    assert done[RepairAction.REPUBLISH] == 1
    (message,) = await queues.take(topology.ORDERS_PLACE, 1)
    assert messages.decode_place(message.body).grabs == [(bob.order_id, "bob", 1)]


async def test_a_second_process_leaves_the_work_to_the_first(all_three, found_by, make_role):
    first, second = make_role(), make_role()
    await first.compare()
    assert await found_by(all_three, times=3, role=second) == []
    assert len(await found_by(all_three, times=1, role=first)) == 3


async def test_a_sale_that_does_not_change_is_not_looked_at_again(
    open_sale, shop, store, db, make_role, monkeypatch
):
    sale = await open_sale()
    await shop.order(sale, "ann")
    looked, real = [], diff.compare_sale

    async def look(redis, db, sale_id, **age):
        looked.append(sale_id)
        return await real(redis, db, sale_id, **age)

    monkeypatch.setattr(diff, "compare_sale", look)
    role = make_role()
    for _ in range(3):
        await role.compare()
    assert looked.count(sale.sale_id) == 1
    await store.hdel(redis_keys.holders(sale.sale_id), "ann")
    await role.compare()
    assert looked.count(sale.sale_id) == 2


async def test_many_differences_are_repaired_in_steps(
    open_sale, shop, store, db, found_by, make_role, monkeypatch, assert_balanced
):
    monkeypatch.setattr(repair, "CALL_MAX", 3)
    monkeypatch.setattr(diff, "DIFFERENCES_MAX", 10)
    monkeypatch.setattr("seckill.consistency.diff.CALL_MAX", 4)
    sale = await open_sale(stock=30)
    for order in await shop.order(sale, *(f"b{n:02}" for n in range(30))):
        await forget(store, sale, order)
    role = make_role()
    counts = [len(await found_by(sale, role=role)) for _ in range(3)]
    assert all(10 < count <= 14 for count in counts[:2])
    assert sum(counts) == 30
    await assert_balanced(sale)


async def test_a_crowd_at_work_is_never_repaired(
    open_sale, shop, db, stock, found_by, make_role, assert_balanced, audited
):
    """Grabs, orders and returns at full speed, and a look after each other."""
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


# The fence.


async def test_F8_the_role_fences_a_sale_that_went_back_in_time(open_sale, shop, store, db, caplog):
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann")
    await shop.place(grab._replace(outbox_mark=2**62))
    fence = Fence(store, db)

    assert (await fence.check())[sale.sale_id] is FenceReason.BEHIND
    assert (await fence.check())[sale.sale_id] is FenceReason.FENCED

    assert await store.hget(redis_keys.sale(sale.sale_id), "state") == b"fenced"
    told = [r.getMessage() for r in caplog.records if sale.sale_id in r.getMessage()]
    assert told == [fencing.advice(sale.sale_id, FenceReason.BEHIND)]


async def test_a_late_give_back_finds_no_holder_twice(open_sale, shop, stock, store, found_by):
    """F6: what reconcile puts on its way may have been given back in the meantime."""
    sale = await open_sale(stock=2)
    (ann,) = await shop.order(sale, "ann")
    await shop.release(ann)
    await shop.return_all(sale)
    await bring_back(store, sale, ann)
    await found_by(sale)
    back = UnitReturn("ann", str(Holding(ann.order_id, 1)), 1)
    await stock.return_units(sale.sale_id, 1, [back])
    await shop.return_all(sale)
    assert await shop.left(sale) == 2


async def test_a_lost_grab_waits_for_other_messages_no_longer_than_all_retries_take(
    open_sale, shop, found_by, all_are_old, publisher, queues, make_role, monkeypatch
):
    """Theirs is not its own, however many of them there are."""
    sale = await open_sale()
    await shop.grab(sale, "ann")
    await publisher.publish(topology.dead(topology.ORDERS_PLACE), b"something else")
    role = make_role()

    async def published(*, retries_ms):
        monkeypatch.setattr(repair, "RETRIES_MS", retries_ms)
        await found_by(sale, role=role)
        return await queues.size(topology.ORDERS_PLACE)

    assert await published(retries_ms=10**9) == 0
    assert await published(retries_ms=0) == 1
    assert await published(retries_ms=10**9) == 1, "not again and again"


# Large sales.


async def test_looks_share_the_time_among_those_that_have_something_to_look_at(
    open_sale, shop, make_role, monkeypatch
):
    _, ann_s, bob_s = [await open_sale() for _ in range(3)]
    role = make_role()
    await role.compare()
    shares = {}

    async def look(redis, db, sale_id, *, age_ms, share):
        shares[sale_id] = share
        return diff.Comparison({}, is_quiet=True)

    monkeypatch.setattr(diff, "compare_sale", look)
    await shop.grab(ann_s, "ann")
    await shop.grab(bob_s, "bob")
    await role.compare()

    assert shares == {ann_s.sale_id: 0.5, bob_s.sale_id: 0.5}


class Looks:
    """Real looks, but for those at one sale: they last until they are left."""

    def __init__(self, large):
        self._large = large
        self._real = diff.compare_sale
        self.begun, self.left = [], []

    async def look(self, redis, db, sale_id, **how):
        self.begun.append(sale_id)
        if sale_id == self._large.sale_id:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.append(sale_id)
        return await self._real(redis, db, sale_id, **how)


@pytest.fixture
async def large(open_sale):
    return await open_sale()


@pytest.fixture
def looks(large, monkeypatch):
    monkeypatch.setattr("consumers.roles.reconcile.PASS_S", 0.05)
    looks = Looks(large)
    monkeypatch.setattr(diff, "compare_sale", looks.look)
    return looks


async def test_small_sales_do_not_wait_for_a_large_one(
    open_sale, shop, make_role, large, looks, running, eventually
):
    """Not for the second look either: there is none at a sale that was quiet in the first."""
    small = [await open_sale() for _ in range(COMPARISONS_MAX + 1)]
    for sale in small:
        await shop.grab(sale, "ann")

    async with running(make_role()):
        await eventually(
            lambda: all(looks.begun.count(sale.sale_id) > 1 for sale in small), "second looks"
        )

    assert looks.begun.count(large.sale_id) == 1
    assert looks.left == [large.sale_id], "left when the role was stopped"


async def test_the_lock_is_kept_while_a_look_lasts(
    make_role, large, looks, store, monkeypatch, running, eventually
):
    monkeypatch.setattr("consumers.roles.reconcile.LOCK_S", 2.0)
    left_ms = []

    async def was_renewed():
        if looks.begun:
            left_ms.append(await store.pttl(redis_keys.reconcile_lock()))
        return left_ms and left_ms[-1] > min(left_ms)

    async with running(make_role()):
        await eventually(was_renewed, "the lock has more time left than before")
        assert await make_role().compare() == {}, "another process finds it taken"
        assert looks.begun == [large.sale_id]


async def test_who_has_lost_the_lock_leaves_what_he_looks_at(
    make_role, large, looks, store, running, eventually
):
    async with running(make_role()):
        await eventually(lambda: looks.begun, "the look has begun")
        await store.set(redis_keys.reconcile_lock(), "another's")
        await eventually(lambda: looks.left, "it is left")
    await store.delete(redis_keys.reconcile_lock())
