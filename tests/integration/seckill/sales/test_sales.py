"""Sales through both stores: made, opened and closed, and never given their stock twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from seckill.adapters import redis_keys, topology
from seckill.errors import Conflict, Unavailable, UserMistake, WrongState
from seckill.inventory.reservations import Verdict
from seckill.sales import sales
from seckill.sales.terms import NewSale

KEYS = (redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox)


async def wipe(store, sale):
    """What an emptied Redis looks like to this sale."""
    await store.delete(*(key(sale.sale_id) for key in KEYS))


async def exists(store, sale):
    return bool(await store.exists(*(key(sale.sale_id) for key in KEYS)))


async def verdict(stock, sale):
    """Return the verdict on a new buyer."""
    return (await stock.find_holders(sale.sale_id, ["stranger"])).verdict


async def test_created_sale_sells_nothing_yet(open_sale, shop, stock, assert_balanced):
    sale = await open_sale(stock=4, opened=False)

    assert (sale.state, sale.was_opened, sale.total, sale.epoch) == ("created", False, 4, 1)
    assert await shop.inventory(sale) == (4, 0, 0)
    assert await shop.left(sale) is None
    assert await verdict(stock, sale) == Verdict.NOT_OPEN
    await assert_balanced(sale)


async def test_opened_sale_has_its_whole_stock_in_redis(open_sale, shop, stock, assert_balanced):
    sale = await open_sale(stock=4)

    assert (sale.state, sale.was_opened) == ("open", True)
    assert await shop.left(sale) == 4
    assert await verdict(stock, sale) == Verdict.ACCEPTED
    await assert_balanced(sale)


async def test_redis_has_the_terms(db, stock, store):
    moment = datetime(2030, 1, 1, 20, tzinfo=UTC)
    new = NewSale(
        "terms", 4, 5, per_order_max=3, opens_at=moment, closes_at=moment.replace(hour=21)
    )
    sale = await sales.create(db, stock, new)

    fields = await store.hgetall(redis_keys.sale("terms"))

    assert fields == {
        b"state": b"created",
        b"opens_at_ms": b"%d" % (moment.timestamp() * 1000),
        b"closes_at_ms": b"%d" % ((moment.timestamp() + 3600) * 1000),
        b"per_order_max": b"3",
        b"number": b"%d" % sale.number,
        b"epoch": b"1",
        b"corrections": b"0",
    }


async def test_F3_opening_again_never_resets_stock(open_sale, shop, db, stock, assert_balanced):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann", "bob")

    again = await sales.open_(db, stock, sale.sale_id)

    assert again.state == "open"
    assert await shop.left(sale) == 8
    await assert_balanced(sale)


async def test_F3_opening_by_many_at_once_writes_stock_once(open_sale, shop, db, stock):
    sale = await open_sale(stock=10, opened=False)

    async def open_and_buy(buyer):
        await sales.open_(db, stock, sale.sale_id)
        await shop.grab(sale, buyer)

    await asyncio.gather(*(open_and_buy(f"buyer-{i}") for i in range(8)))

    assert await shop.left(sale) == 2


@pytest.mark.parametrize("placed", [False, True], ids=["still in the queue", "placed already"])
async def test_F3_opening_after_a_crash_keeps_what_was_sold(
    open_sale, shop, db, stock, assert_balanced, placed
):
    """Redis is open and sells; the commit that says so in PostgreSQL never came."""
    sale = await open_sale(stock=10, opened=False)
    await stock.open_sale(sale.sale_id, sale.terms())
    grabs = await shop.grab(sale, "ann", "bob", "cat")
    if placed:
        await shop.place(*grabs)

    opened = await sales.open_(db, stock, sale.sale_id)

    assert (opened.state, opened.was_opened) == ("open", True)
    assert await shop.left(sale) == 7
    await shop.place(*grabs)
    await assert_balanced(sale)


async def test_F4_keys_of_a_sale_never_expire(open_sale, shop, store):
    sale = await open_sale()
    await shop.grab(sale, "ann", settle=False)

    assert [await store.ttl(key(sale.sale_id)) for key in KEYS] == [-1] * 4


@pytest.mark.parametrize("closed", [False, True])
async def test_F5_a_sale_that_redis_lost_is_not_reseeded(open_sale, shop, db, stock, store, closed):
    sale = await open_sale()
    await shop.order(sale, "ann")
    if closed:
        await sales.close(db, stock, sale.sale_id)
    await wipe(store, sale)

    with pytest.raises(Conflict, match="rebuilt"):
        await sales.open_(db, stock, sale.sale_id)

    assert not await exists(store, sale)
    assert (await sales.find(db, sale.sale_id)).state == ("closed" if closed else "open")


async def test_F5_a_sale_lost_before_its_opening_was_committed_is_not_reseeded(
    open_sale, shop, db, stock, store
):
    sale = await open_sale(opened=False)
    await stock.open_sale(sale.sale_id, sale.terms())
    await shop.order(sale, "ann")
    await wipe(store, sale)

    with pytest.raises(Conflict, match="rebuilt"):
        await sales.open_(db, stock, sale.sale_id)

    assert not await exists(store, sale)


async def test_fenced_sale_is_neither_opened_nor_closed(open_sale, db, stock, store):
    sale = await open_sale()
    await store.hset(redis_keys.sale(sale.sale_id), "state", "fenced")

    for change in (sales.open_, sales.close):
        with pytest.raises(Conflict):
            await change(db, stock, sale.sale_id)

    assert await store.hget(redis_keys.sale(sale.sale_id), "state") == b"fenced"


async def test_announcement_that_redis_forgot_is_made_up_for_by_the_opening(
    open_sale, shop, db, stock, store
):
    """Nothing was sold yet, so there is nothing to rebuild."""
    sale = await open_sale(stock=4, opened=False)
    await wipe(store, sale)

    await sales.open_(db, stock, sale.sale_id)

    assert await shop.left(sale) == 4


async def test_failed_opening_leaves_the_sale_unopened(open_sale, db, stock, monkeypatch):
    sale = await open_sale(opened=False)

    async def unavailable(*_):
        raise Unavailable

    monkeypatch.setattr(stock, "open_sale", unavailable)
    with pytest.raises(Unavailable):
        await sales.open_(db, stock, sale.sale_id)

    found = await sales.find(db, sale.sale_id)
    assert (found.state, found.was_opened) == ("created", False)


async def test_a_closed_sale_takes_no_grabs_and_can_open_again(open_sale, shop, db, stock):
    sale = await open_sale()
    await shop.order(sale, "ann")

    assert (await sales.close(db, stock, sale.sale_id)).state == "closed"
    assert await verdict(stock, sale) == Verdict.CLOSED

    assert (await sales.open_(db, stock, sale.sale_id)).state == "open"
    assert await verdict(stock, sale) == Verdict.ACCEPTED
    assert await shop.left(sale) == 9


async def test_closing_a_sale_that_redis_lost_is_a_conflict(open_sale, db, stock, store):
    sale = await open_sale()
    await wipe(store, sale)

    with pytest.raises(Conflict):
        await sales.close(db, stock, sale.sale_id)

    assert not await exists(store, sale)


# What people type.


async def test_unknown_sale_is_a_mistake(db, stock):
    for call in (
        lambda: sales.find(db, "no-such-sale"),
        lambda: sales.open_(db, stock, "no-such-sale"),
        lambda: sales.close(db, stock, "no-such-sale"),
    ):
        with pytest.raises(UserMistake, match="no sale no-such-sale"):
            await call()


async def test_a_taken_id_is_a_mistake_and_changes_nothing(open_sale, shop, db, stock):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann")

    with pytest.raises(UserMistake, match="exists already"):
        await sales.create(db, stock, NewSale(sale.sale_id, 500, 1))

    assert await sales.find(db, sale.sale_id) == sale
    assert await shop.left(sale) == 9


async def test_an_id_that_only_redis_knows_is_a_mistake(open_sale, shop, db, stock):
    """The database was made anew, Redis was not: its sale is not taken over."""
    sale = await open_sale(stock=10)
    await db.execute("DELETE FROM inventory WHERE sale_id = $1", sale.sale_id)
    await db.execute("DELETE FROM sales WHERE sale_id = $1", sale.sale_id)

    with pytest.raises(UserMistake, match="choose another id"):
        await sales.create(db, stock, NewSale(sale.sale_id, 500, 1))

    assert await shop.left(sale) == 10


async def test_F3_a_refused_sale_cannot_be_opened_with_the_stock_of_another_life(
    open_sale, db, stock
):
    sale = await open_sale(stock=10)
    await db.execute("DELETE FROM inventory WHERE sale_id = $1", sale.sale_id)
    await db.execute("DELETE FROM sales WHERE sale_id = $1", sale.sale_id)
    with pytest.raises(UserMistake, match="choose another id"):
        await sales.create(db, stock, NewSale(sale.sale_id, 500, 1))

    with pytest.raises((Conflict, UserMistake)):
        await sales.open_(db, stock, sale.sale_id)


@pytest.mark.parametrize(
    "new",
    [
        NewSale("", 1, 1),
        NewSale("with space", 1, 1),
        NewSale("new\n", 1, 1),
        NewSale("x" * 65, 1, 1),
        NewSale(".", 1, 1),
        NewSale("..", 1, 1),
        NewSale("-x", 1, 1),
        NewSale("none-to-sell", 0, 1),
        NewSale("too-many", 2**31, 1),
        NewSale("negative-price", 1, -1),
        NewSale("dear", 1, 2**63),
        NewSale("none-each", 1, 1, per_order_max=0),
        NewSale("no-time-to-pay", 1, 1, payment_window_s=0),
        NewSale("endless-work", 1, 1, proof_bits=27),
        NewSale("negative-work", 1, 1, proof_bits=-1),
        NewSale(
            "ends-first",
            1,
            1,
            opens_at=datetime(2030, 1, 2, tzinfo=UTC),
            closes_at=datetime(2030, 1, 1, tzinfo=UTC),
        ),
    ],
    ids=lambda new: new.sale_id[:20],
)
async def test_impossible_sale_is_a_mistake_and_leaves_nothing(db, stock, store, new):
    with pytest.raises(UserMistake):
        await sales.create(db, stock, new)

    assert not await db.fetchval("SELECT count(*) FROM sales WHERE sale_id = $1", new.sale_id)
    assert not await exists(store, new)


async def test_a_seventeenth_payment_window_is_refused(db, stock):
    async def windows():
        rows = await db.fetch("SELECT DISTINCT payment_window_s FROM sales")
        return {row[0] for row in rows}

    made = []

    async def create(window_s):
        new = NewSale(f"window-{len(made)}", 1, 1, payment_window_s=window_s)
        await sales.create(db, stock, new)
        made.append(new.sale_id)

    try:
        unused = iter(range(10_000, 20_000))
        while len(await windows()) < topology.TIMER_QUEUES_MAX:
            await create(next(unused))
        with pytest.raises(UserMistake, match="17th"):
            await create(next(unused))
        await create(min(await windows()))  # one that is used already

        assert len(await windows()) == topology.TIMER_QUEUES_MAX
    finally:  # the other tests want windows of their own
        await db.execute("DELETE FROM inventory WHERE sale_id = ANY($1)", made)
        await db.execute("DELETE FROM sales WHERE sale_id = ANY($1)", made)


async def test_a_paused_sale_takes_no_grabs_until_it_is_resumed(
    open_sale, shop, db, stock, assert_balanced
):
    sale = await open_sale(stock=10)
    await shop.order(sale, "ann")

    for _ in range(2):
        assert (await sales.pause(db, stock, sale.sale_id)).state == "paused"
        assert await verdict(stock, sale) == Verdict.PAUSED
        assert (await stock.find_holders(sale.sale_id, ["ann"])).holdings[0] is not None
    for _ in range(2):
        assert (await sales.resume(db, stock, sale.sale_id)).state == "open"
        assert await verdict(stock, sale) == Verdict.ACCEPTED

    await shop.order(sale, "bob")
    await assert_balanced(sale)


async def test_opening_does_not_lift_a_pause(open_sale, db, stock):
    sale = await open_sale()
    await sales.pause(db, stock, sale.sale_id)

    with pytest.raises(WrongState, match="seckill sale resume"):
        await sales.open_(db, stock, sale.sale_id)

    assert await verdict(stock, sale) == Verdict.PAUSED


async def test_a_paused_sale_closes(open_sale, db, stock):
    sale = await open_sale()
    await sales.pause(db, stock, sale.sale_id)
    assert (await sales.close(db, stock, sale.sale_id)).state == "closed"
    assert await verdict(stock, sale) == Verdict.CLOSED


@pytest.mark.parametrize("change", [sales.pause, sales.resume])
async def test_only_an_open_sale_is_paused_or_resumed(open_sale, db, stock, change):
    sale = await open_sale(opened=False)
    with pytest.raises(WrongState, match="never opened"):
        await change(db, stock, sale.sale_id)
    await sales.open_(db, stock, sale.sale_id)
    await sales.close(db, stock, sale.sale_id)
    with pytest.raises(WrongState, match="is closed; open it again"):
        await change(db, stock, sale.sale_id)
    assert await verdict(stock, sale) == Verdict.CLOSED


@pytest.mark.parametrize(("change", "state"), [(sales.pause, "paused"), (sales.resume, "open")])
async def test_a_pause_or_resume_that_died_between_the_stores_is_mended_by_doing_it_again(
    open_sale, db, stock, store, change, state
):
    sale = await open_sale()
    if state == "open":
        await sales.pause(db, stock, sale.sale_id)
    await stock.set_sale_state(sale.sale_id, state)  # and then the commit never came

    assert (await change(db, stock, sale.sale_id)).state == state

    assert await store.hget(redis_keys.sale(sale.sale_id), "state") == state.encode()


@pytest.mark.parametrize("change", [sales.pause, sales.resume])
async def test_F8_a_lost_or_fenced_sale_is_not_paused_or_resumed(
    open_sale, db, stock, store, change
):
    sale = await open_sale()
    await store.hset(redis_keys.sale(sale.sale_id), "state", "fenced")
    with pytest.raises(Conflict, match="being rebuilt"):
        await change(db, stock, sale.sale_id)
    await wipe(store, sale)
    with pytest.raises(Conflict, match="has lost"):
        await change(db, stock, sale.sale_id)
    assert not await exists(store, sale)
