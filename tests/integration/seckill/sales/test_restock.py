"""Restocks through both stores: once, whatever is killed on the way, and never out of a hand."""

from __future__ import annotations

import asyncio
import json

import pytest

from consumers.roles.return_stock import ReturnStock
from seckill.adapters import redis_keys
from seckill.consistency import verify
from seckill.errors import Conflict, Missing, Unavailable, UserMistake, WrongState
from seckill.inventory.reservations import RestockOutcome, RestockReply, Stock, Verdict
from seckill.sales import restock


@pytest.fixture
def change(db, stock):
    """Restock as `seckill sale restock` does: `await change(sale, 5)`."""

    async def call(sale, units, *, stock=stock, **options):
        return await restock.restock(
            db, stock, sale.sale_id, units, actor="ann", reason="found a box", **options
        )

    return call


@pytest.fixture
def units_of(db, shop, store):
    """Return the units of a sale: (total, available) in PostgreSQL, (total, stock) in Redis."""

    async def read(sale):
        row = await db.fetchrow(
            "SELECT total, available FROM inventory WHERE sale_id = $1", sale.sale_id
        )
        total = await store.hget(redis_keys.sale(sale.sale_id), "total")
        return tuple(row), (total and int(total), await shop.left(sale))

    return read


async def audited(db, sale):
    return await db.fetch(
        "SELECT actor, action, reason, details FROM audit WHERE sale_id = $1 ORDER BY audit_id",
        sale.sale_id,
    )


@pytest.mark.parametrize(("units", "total", "left"), [(5, 15, 13), (-8, 2, 0)])
async def test_both_stores_and_the_audit_trail_have_it(
    open_sale, shop, change, units_of, db, assert_balanced, units, total, left
):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann", "bob")

    assert (await change(sale, units)).total == total

    assert await units_of(sale) == ((total, left), (total, left))
    (row,) = await audited(db, sale)
    assert (row["actor"], row["action"], row["reason"]) == ("ann", "sale.restock", "found a box")
    assert json.loads(row["details"]) == {"units": units, "total": total}
    await assert_balanced(sale)


async def test_a_sold_out_sale_sells_again(open_sale, shop, change, stock, assert_balanced):
    sale = await open_sale(stock=1)
    await shop.order(sale, "ann")
    assert (await stock.find_holders(sale.sale_id, ["bob"])).verdict is Verdict.SOLD_OUT

    await change(sale, 1)
    await shop.order(sale, "bob")

    await assert_balanced(sale)


async def test_what_is_held_or_on_its_way_cannot_be_taken_out(
    open_sale, shop, change, units_of, db, assert_balanced
):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann", "bob")
    await shop.release(*(await shop.order(sale, "cat")))
    (dan,) = await shop.grab(sale, "dan")

    with pytest.raises(WrongState, match="only 6 units"):
        await change(sale, -7)

    assert await units_of(sale) == ((10, 8), (10, 6))
    assert await audited(db, sale) == []
    await shop.place(dan)
    await shop.return_all(sale)
    await change(sale, -7)
    await assert_balanced(sale)


async def test_the_same_call_from_the_same_total_is_done_once(open_sale, change, units_of, db):
    sale = await open_sale(stock=10)

    for _ in range(3):
        assert (await change(sale, 5, from_total=10)).total == 15
    with pytest.raises(WrongState, match="has 15 units, not 11"):
        await change(sale, 5, from_total=11)

    assert await units_of(sale) == ((15, 15), (15, 15))
    assert len(await audited(db, sale)) == 1


async def test_many_at_once_are_all_done(open_sale, change, units_of, db, assert_balanced):
    sale = await open_sale(stock=10)

    await asyncio.gather(*(change(sale, n) for n in (1, 2, 3, -1, -2)))

    assert await units_of(sale) == ((13, 13), (13, 13))
    assert len(await audited(db, sale)) == 5
    await assert_balanced(sale)


async def test_many_at_once_from_one_total_are_one(open_sale, change, units_of, db):
    sale = await open_sale(stock=10)

    await asyncio.gather(*(change(sale, 3, from_total=10) for _ in range(5)))

    assert await units_of(sale) == ((13, 13), (13, 13))
    assert len(await audited(db, sale)) == 1


@pytest.mark.parametrize(
    ("units", "reason", "message"),
    [
        (0, "x", "some units"),
        (1, " ", "a reason"),
        (1, "a\0b", "a reason"),
        (-10, "x", "sale close"),
        (2**31, "x", "may have 1 to"),
    ],
)
async def test_what_cannot_be_is_one_line(open_sale, db, stock, units_of, units, reason, message):
    sale = await open_sale(stock=10)
    with pytest.raises(UserMistake, match=message) as refused:
        await restock.restock(db, stock, sale.sale_id, units, actor="ann", reason=reason)
    assert "\n" not in str(refused.value)
    assert await units_of(sale) == ((10, 10), (10, 10))


async def test_a_sale_that_was_never_opened_or_made_is_not_restocked(open_sale, change, db, stock):
    with pytest.raises(WrongState, match="never opened"):
        await change(await open_sale(opened=False), 1)
    with pytest.raises(Missing):
        await restock.restock(db, stock, "nowhere", 1, actor="ann", reason="x")


# Killed on the way.


class Dies(Exception):
    """The process ends here."""


class MortalStock(Stock):
    """Dies before or after a step that changes something in Redis."""

    def __init__(self, redis, *, after_it: bool) -> None:
        super().__init__(redis)
        self._after_it = after_it

    async def restock(self, sale_id, epoch, before, after) -> RestockReply:
        if before == after:  # only asks
            reply = await super().restock(sale_id, epoch, before, after)
            if reply.outcome is not RestockOutcome.MOVED:
                return reply
            raise Dies
        if self._after_it:
            await super().restock(sale_id, epoch, before, after)
        raise Dies


def mend_by_the_poller(db, stock, sale, change, units):
    return ReturnStock(db, stock).repair()


def mend_by_doing_it_again(db, stock, sale, change, units):
    return change(sale, units, from_total=10)


mends = pytest.mark.parametrize("mend", [mend_by_the_poller, mend_by_doing_it_again])


@mends
async def test_a_raise_that_dies_between_the_stores_is_finished(
    open_sale, shop, change, store, db, stock, units_of, assert_balanced, mend
):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann")
    with pytest.raises(Dies):
        await change(sale, 5, stock=MortalStock(store, after_it=False), from_total=10)
    assert await units_of(sale) == ((15, 14), (10, 9))
    ledger = await verify.verify(store, db, sale.sale_id)
    assert (ledger.balanced, ledger.lines["restock pending"]) == (True, 5)

    for _ in range(2):
        await mend(db, stock, sale, change, 5)

    assert await units_of(sale) == ((15, 14), (15, 14))
    assert len(await audited(db, sale)) == 1
    await assert_balanced(sale)


async def test_a_reduction_that_dies_between_the_stores_is_undone_or_done_again(
    open_sale, shop, change, store, db, stock, units_of, assert_balanced
):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann")
    for mend, units, found in (
        (mend_by_the_poller, -3, ((10, 9), (10, 9))),
        (mend_by_doing_it_again, -3, ((7, 6), (7, 6))),
    ):
        with pytest.raises(Dies):
            await change(sale, units, stock=MortalStock(store, after_it=True), from_total=10)
        assert await units_of(sale) == ((10, 9), (7, 6))
        for _ in range(2):
            await mend(db, stock, sale, change, units)
        assert await units_of(sale) == found
        await assert_balanced(sale)
    assert len(await audited(db, sale)) == 1


async def test_a_restock_after_one_that_broke_off_counts_both(
    open_sale, change, store, units_of, assert_balanced
):
    sale = await open_sale(stock=10)
    with pytest.raises(Dies):
        await change(sale, 5, stock=MortalStock(store, after_it=False))

    await change(sale, -2)

    assert await units_of(sale) == ((13, 13), (13, 13))
    await assert_balanced(sale)


async def test_the_poller_does_not_undo_a_reduction_that_is_under_way(
    open_sale, change, store, db, stock, units_of, blocked, eventually, assert_balanced
):
    sale = await open_sale(stock=10)
    in_redis, go_on = asyncio.Event(), asyncio.Event()

    class SlowStock(Stock):
        async def restock(self, *step):
            reply = await super().restock(*step)
            if step[2] != step[3]:
                in_redis.set()
                await go_on.wait()
            return reply

    changing = asyncio.create_task(change(sale, -3, stock=SlowStock(store)))
    await in_redis.wait()
    repairing = asyncio.create_task(ReturnStock(db, stock).repair())
    await eventually(blocked, "the poller waits for the sale")
    go_on.set()
    await asyncio.gather(changing, repairing)

    assert await units_of(sale) == ((7, 7), (7, 7))
    await assert_balanced(sale)


async def test_an_unavailable_store_says_how_to_repeat_it(open_sale, change, store, units_of):
    class AwayStock(Stock):
        async def restock(self, *step):
            raise Unavailable("Redis does not answer")

    sale = await open_sale(stock=10)
    with pytest.raises(Unavailable, match="--from-total 10"):
        await change(sale, 5, stock=AwayStock(store))
    assert await units_of(sale) == ((10, 10), (10, 10))


# Rebuilds.


async def test_a_fenced_sale_is_left_to_its_rebuild(open_sale, change, store, db, stock, units_of):
    sale = await open_sale(stock=10)
    await db.execute(
        "UPDATE inventory SET total = 12, available = 12 WHERE sale_id = $1", sale.sale_id
    )
    await store.hset(redis_keys.sale(sale.sale_id), "state", "fenced")

    assert sale.sale_id not in await ReturnStock(db, stock).repair()
    with pytest.raises(Conflict, match="being rebuilt"):
        await change(sale, 1)

    assert await units_of(sale) == ((12, 12), (10, 10))


async def test_F5_a_reduction_that_a_rebuild_overtakes_changes_nothing_in_postgresql(
    open_sale, shop, change, store, units_of
):
    """The rebuild has read the old total, and writes that to Redis."""
    sale = await open_sale(stock=10)

    class OvertakenStock(Stock):
        async def restock(self, *step):
            reply = await super().restock(*step)
            if step[2] != step[3]:
                await shop.bump_epoch(sale)
                await store.hset(redis_keys.sale(sale.sale_id), mapping={"epoch": 2, "total": 10})
                await store.set(redis_keys.stock(sale.sale_id), 10)
            return reply

    with pytest.raises(Conflict, match="rebuilt"):
        await change(sale, -3, stock=OvertakenStock(store))

    assert await units_of(sale) == ((10, 10), (10, 10))


async def test_more_units_in_redis_than_in_postgresql_are_not_touched(
    open_sale, change, store, db, stock, units_of
):
    """F5: PostgreSQL may have been restored from a backup; nothing is copied over blindly."""
    sale = await open_sale(stock=10)
    await store.hset(redis_keys.sale(sale.sale_id), "total", 12)
    await store.set(redis_keys.stock(sale.sale_id), 12)

    assert sale.sale_id not in await ReturnStock(db, stock).repair()
    with pytest.raises(Conflict, match="12 units in Redis and 10 in PostgreSQL"):
        await change(sale, 1)

    assert await units_of(sale) == ((10, 10), (12, 12))


async def test_a_sale_of_an_earlier_version_gets_its_total_with_the_first_restock(
    open_sale, shop, change, store, db, stock, units_of, assert_balanced
):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann")
    await store.hdel(redis_keys.sale(sale.sale_id), "total")

    with pytest.raises(Dies):
        await change(sale, 5, stock=MortalStock(store, after_it=False))
    assert await units_of(sale) == ((15, 14), (10, 9))
    await ReturnStock(db, stock).repair()

    assert await units_of(sale) == ((15, 14), (15, 14))
    await assert_balanced(sale)


async def test_restocks_while_buyers_come_and_go_keep_the_balance(
    open_sale, shop, change, stock, assert_balanced
):
    sale = await open_sale(stock=10)

    async def buyer(name):
        for turn in range(6):
            try:
                placed = await shop.order(sale, f"{name}-{turn}")
            except AssertionError:  # sold out for now
                continue
            if turn % 2:
                await shop.release(*placed)

    async def operator():
        for units in (3, -4, 6, -2, 5, -7):
            try:
                await change(sale, units)
            except WrongState:  # too few are unsold
                continue

    await asyncio.gather(*(buyer(f"b{n}") for n in range(4)), operator(), operator())

    await shop.return_all(sale)
    ledger = await assert_balanced(sale)
    assert ledger.lines["total"] == ledger.lines["available"] + ledger.lines["frozen"]
