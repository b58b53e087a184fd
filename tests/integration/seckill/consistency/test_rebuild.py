"""rebuild: a sale that Redis lost goes on from PostgreSQL, and nothing of the old life leaks in."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from seckill.adapters import redis_keys
from seckill.consistency import drain, fencing
from seckill.consistency.drain import InFlight, wait_until_placed
from seckill.consistency.fencing import FenceReason
from seckill.consistency.rebuild import Rebuild
from seckill.errors import Conflict, Missing, Unavailable, WrongState
from seckill.inventory import outbox, stock_returns
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id
from seckill.sales import rate_limits, sales
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.restock import restock
from seckill.sales.token_buckets import TokenBuckets


@pytest.fixture
def rebuilder(store, db):
    return Rebuild(store, db)


@pytest.fixture
def run(rebuilder):
    """Fence and rebuild a sale, without waiting for anything."""

    async def rebuild_now(sale, *, force=False):
        reasons = await rebuilder.fence([sale.sale_id], force=force)
        return await rebuilder.run(sale.sale_id, actor="test", reason=reasons[sale.sale_id])

    return rebuild_now


@pytest.fixture
def lose(store):
    """Do to one sale what FLUSHALL does to all."""

    async def flush(sale):
        names = [name async for name in store.scan_iter(f"sk:{{{sale.sale_id}}}:*")]
        await store.delete(*names)

    return flush


@pytest.fixture
def told(stock):
    """Grab as a gateway does; return what each buyer is told, a letter each."""

    async def grab(sale, *buyers):
        grabs = [Grab(new_order_id(sale.number), buyer_id, 1) for buyer_id in buyers]
        deadline = await stock.now_ms() + 60_000
        reply = await stock.grab(sale.sale_id, grabs, deadline_ms=deadline, outbox_max=100)
        return "".join(reply.verdicts)

    return grab


async def test_F8_an_emptied_sale_goes_on_and_sells_exactly_the_rest(
    open_sale, shop, lose, told, run, assert_balanced
):
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann", "bob")
    await shop.release(*await shop.order(sale, "cat"))
    await shop.return_all(sale)
    await lose(sale)
    assert await told(sale, "ann", "new") == "UU"

    rebuilt = await run(sale)

    assert (rebuilt.epoch, rebuilt.stock, rebuilt.holders, rebuilt.rejected) == (2, 3, 2, 0)
    await assert_balanced(sale)
    # The holder hears of his order, the rest are sold, and no more.
    assert await told(sale, "ann", *"defgh") == "DAAASS"


@pytest.mark.parametrize(
    "lost", [["stock"], ["sale"], ["holders"], ["sale", "stock"]], ids="+".join
)
async def test_F8_a_sale_that_lost_a_part_is_rebuilt_as_well(
    open_sale, shop, store, told, run, assert_balanced, lost
):
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann", "bob")
    await store.delete(*(getattr(redis_keys, key)(sale.sale_id) for key in lost))

    await run(sale, force=lost == ["holders"])

    await assert_balanced(sale)
    assert await told(sale, "ann", *"defgh") == "DAAASS"


async def test_a_sale_that_is_whole_is_refused_and_not_even_fenced(open_sale, run, told):
    sale = await open_sale()
    with pytest.raises(WrongState, match="whole"):
        await run(sale)
    assert await told(sale, "ann") == "A"


async def test_a_sale_that_nobody_knows_is_missing(rebuilder):
    with pytest.raises(Missing):
        await rebuilder.fence(["no-such-sale"])


@pytest.mark.parametrize("state", ["paused", "closed"])
async def test_the_state_comes_back(open_sale, db, stock, store, lose, told, run, state):
    sale = await open_sale()
    await {"paused": sales.pause, "closed": sales.close}[state](db, stock, sale.sale_id)
    await lose(sale)
    assert (await run(sale)).state == state
    assert await told(sale, "ann") == {"paused": "P", "closed": "C"}[state]


async def test_a_sale_that_was_never_opened_can_open_after_it(
    open_sale, db, stock, lose, told, run, assert_balanced
):
    sale = await open_sale(stock=2, opened=False)
    await lose(sale)
    assert await told(sale, "ann") == "U"

    assert (await run(sale)).stock is None

    assert await told(sale, "ann") == "N"
    await sales.open_(db, stock, sale.sale_id)
    assert await told(sale, *"abc") == "AAS"


async def test_a_sale_whose_opening_was_cut_off_keeps_its_orders(
    open_sale, shop, db, stock, lose, told, run, assert_balanced
):
    """Redis had been written, PostgreSQL had not, and buyers came in between."""
    sale = await open_sale(stock=3)
    await shop.order(sale, "ann")
    await db.execute(
        "UPDATE sales SET opened_at = NULL, state = 'created' WHERE sale_id = $1", sale.sale_id
    )
    await lose(sale)
    await run(sale)
    await sales.open_(db, stock, sale.sale_id)
    await assert_balanced(sale)
    assert await told(sale, "ann", *"bcd") == "DAAS"


async def test_limits_and_restocked_units_come_back(
    open_sale, store, stock, db, lose, run, told, assert_balanced
):
    sale = await open_sale(stock=2)
    await rate_limits.set_limit(db, TokenBuckets(store), sale.sale_id, "try", SaleLimit.of(7))
    await restock(db, stock, sale.sale_id, 1, actor="test", reason="more came")
    await lose(sale)

    await run(sale)

    assert await store.hget(redis_keys.bucket(sale.sale_id, "try"), "rate") == b"7"
    assert await store.hget(redis_keys.sale(sale.sale_id), "total") == b"3"
    await assert_balanced(sale)
    await restock(db, stock, sale.sale_id, -1, actor="test", reason="fewer after all")
    assert await told(sale, *"abc") == "AAS"


async def test_every_rebuild_is_on_record(open_sale, db, lose, run):
    sale = await open_sale(stock=2)
    await lose(sale)
    await run(sale)
    row = await db.fetchrow(
        "SELECT actor, action, reason FROM audit WHERE sale_id = $1", sale.sale_id
    )
    assert tuple(row) == ("test", "sale.rebuild", "lost")


# What is under way.


async def test_F8_a_message_of_the_old_life_is_rejected_and_returns_nothing(
    open_sale, shop, lose, run, assert_balanced
):
    sale = await open_sale(stock=5)
    late = await shop.grab(sale, "ann", "bob")
    await lose(sale)
    await run(sale)
    assert await shop.left(sale) == 5

    await shop.place(*late)

    assert await shop.states(sale, late) == ["rejected epoch"] * 2
    assert await shop.returns(sale) == {}
    assert await shop.left(sale) == 5
    await assert_balanced(sale)


async def test_a_holder_in_flight_gets_its_rejected_row_before_it_goes(
    open_sale, shop, run, told, assert_balanced
):
    """I4: whoever was told 202 has a row, also where his message is lost."""
    sale = await open_sale(stock=2)
    placed, in_flight = await shop.order(sale, "ann"), await shop.grab(sale, "bob")

    assert (await run(sale, force=True)).rejected == 1

    assert await shop.states(sale, placed + in_flight) == ["pending", "rejected epoch"]
    assert await told(sale, "ann", "bob", "cat") == "DAS"


async def test_an_outbox_entry_of_the_old_life_stays_for_the_relay(open_sale, shop, run, store):
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann", settle=False)
    await run(sale, force=True)
    assert await shop.outbox_size(sale) == 1
    await shop.place(grab)  # as the relay has it done, with the epoch of the entry
    assert await shop.states(sale, [grab]) == ["rejected epoch"]
    assert await shop.left(sale) == 10


async def test_the_rebuild_waits_until_what_is_under_way_is_placed(
    open_sale, shop, store, db, monkeypatch, eventually
):
    monkeypatch.setattr(drain, "LOOK_PAUSE_S", 0.05)
    sale = await open_sale()
    grabs, waiting = await shop.grab(sale, "ann"), 1
    wait = asyncio.create_task(
        wait_until_placed(store, db, lambda: _answer(waiting), [sale.sale_id], 30)
    )
    await asyncio.wait({wait}, timeout=0.3)
    assert not wait.done(), "a message waits, and a holder has no row"
    waiting = 0
    await shop.place(*grabs)
    assert await wait == InFlight(0, 0, 0)


async def _answer(number):
    return number


async def test_the_wait_is_bounded_and_says_what_is_left(open_sale, shop, store, db):
    sale = await open_sale()
    await shop.grab(sale, "ann", "bob", settle=False)
    left = await wait_until_placed(store, db, lambda: _answer(3), [sale.sale_id], 0.01)
    assert left == InFlight(messages=3, outbox_entries=1, holders=2)


@pytest.mark.parametrize("first", ["place", "rebuild"])
async def test_a_place_under_way_is_read_by_the_rebuild_or_meets_its_epoch(
    open_sale, shop, db, lose, rebuilder, eventually, assert_balanced, first
):
    """Both wait for the inventory row; the place has inserted its rows by then."""
    sale = await open_sale(stock=5)
    late = await shop.grab(sale, "ann")
    await lose(sale)
    start = {
        "place": lambda: shop.place(*late),
        "rebuild": lambda: rebuilder.run(sale.sale_id, actor="test", reason="lost"),
    }
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    async def wait_for_lock(number):
        return await db.fetchval(waiting) == number

    async with db.acquire() as connection, connection.transaction():
        await connection.execute(
            "SELECT FROM inventory WHERE sale_id = $1 FOR UPDATE", sale.sale_id
        )
        tasks = []
        for name in (first, *(start.keys() - {first})):
            tasks.append(asyncio.create_task(start[name]()))
            await eventually(partial(wait_for_lock, len(tasks)), f"the {name} waits")
    await asyncio.gather(*tasks)

    told = {"place": "pending", "rebuild": "rejected epoch"}[first]
    assert await shop.states(sale, late) == [told]
    assert len(await shop.holders(sale)) == (first == "place")
    await assert_balanced(sale)


async def test_F16_an_order_that_ends_under_the_fence_gives_its_units_back_after_it(
    open_sale, shop, db, stock, lose, rebuilder, monkeypatch, assert_balanced
):
    sale = await open_sale(stock=3)
    (ann,) = await shop.order(sale, "ann")
    (bob,) = await shop.order(sale, "bob")
    await shop.release(bob)  # before the rebuild: its units are available there already
    await lose(sale)
    lift = rebuilder._lift

    async def end_and_lift(books):
        await shop.release(ann)  # after the books were read, and before the fence is lifted
        assert (await stock_returns.return_batch(db, stock)).done == 0
        await lift(books)

    monkeypatch.setattr(rebuilder, "_lift", end_and_lift)
    await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    assert await shop.left(sale) == 2
    await db.execute("UPDATE stock_returns SET due_at = now()")
    await shop.return_all(sale)
    assert await shop.left(sale) == 3
    assert await shop.holders(sale) == {}
    await assert_balanced(sale)


# Rebuilds that are cut off, and several of them.

STEPS = ["_raise_epoch", "_reject_in_flight", "_run", "_restore_limits", "_lift"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_F3_a_rebuild_that_dies_at_any_step_sells_nothing_and_is_run_again(
    open_sale, shop, lose, told, rebuilder, run, monkeypatch, assert_balanced, step, done
):
    sale = await open_sale(stock=3)
    await shop.order(sale, "ann")
    await lose(sale)
    real = getattr(rebuilder, step)

    async def die(*args):
        if done:
            await real(*args)
        raise Unavailable("the process dies here")

    monkeypatch.setattr(rebuilder, step, die)
    with pytest.raises(Unavailable):
        await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    monkeypatch.undo()
    was_lifted = step == "_lift" and done
    if not was_lifted:
        assert await told(sale, "new") == "U"
        await run(sale)
    await assert_balanced(sale)
    assert await told(sale, "ann", *"bcd") == "DAAS"


async def test_two_rebuilds_at_once_end_in_one(
    open_sale, shop, store, db, lose, told, rebuilder, assert_balanced
):
    sale = await open_sale(stock=40)
    await shop.order(sale, *(f"b{n}" for n in range(20)))
    await lose(sale)
    ended = await asyncio.gather(
        *(rebuilder.run(sale.sale_id, actor="test", reason="lost") for _ in range(4)),
        return_exceptions=True,
    )
    assert [e for e in ended if not isinstance(e, Conflict)], "the last one wins"
    await assert_balanced(sale)
    assert await shop.left(sale) == 20


@pytest.mark.parametrize("overtaken_at", ["_reject_in_flight", "_restore_limits", "_lift"])
async def test_an_overtaken_rebuild_stops_and_writes_nothing(
    open_sale,
    shop,
    store,
    db,
    lose,
    told,
    rebuilder,
    run,
    monkeypatch,
    overtaken_at,
    assert_balanced,
):
    sale = await open_sale(stock=3)
    (ann,) = await shop.order(sale, "ann")
    await lose(sale)
    real, other = getattr(rebuilder, overtaken_at), Rebuild(store, db)

    async def overtaken(*args):
        await shop.release(ann)
        await other.run(sale.sale_id, actor="other", reason="lost")
        await told(sale, "bob")
        await real(*args)

    monkeypatch.setattr(rebuilder, overtaken_at, overtaken)
    with pytest.raises(Conflict, match="another rebuild"):
        await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    assert await shop.left(sale) == 2
    assert list(await shop.holders(sale)) == ["bob"]
    assert (await shop.rows(sale)).keys() == {ann.order_id}, "bob is on his way in the new life"


async def test_books_that_do_not_balance_are_left_alone(open_sale, shop, db, lose, rebuilder):
    sale = await open_sale()
    await shop.order(sale, "ann")
    await lose(sale)
    await db.execute("UPDATE orders SET quantity = 2 WHERE sale_id = $1", sale.sale_id)
    with pytest.raises(Conflict, match="do not balance"):
        await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    assert (await sales.find(db, sale.sale_id)).epoch == 1


async def test_a_postgresql_of_an_older_epoch_goes_beyond_what_redis_has(open_sale, store, run):
    """PostgreSQL was restored from a backup: messages of its future are about."""
    sale = await open_sale()
    await store.hset(redis_keys.sale(sale.sale_id), "epoch", 7)
    assert (await run(sale, force=True)).epoch == 8


# Going back in time.


async def trouble_of(store, db, sale):
    return (await fencing.needing_rebuild(store, db, [sale.sale_id])).get(sale.sale_id)


@pytest.fixture
def placed_with_mark(shop, store):
    """Place an order of a grab with its outbox id, as a message brings it."""

    async def place(sale, buyer):
        (grab,) = await shop.grab(sale, buyer, settle=False)
        ((outbox_id, _),) = await store.xrevrange(redis_keys.outbox(sale.sale_id), count=1)
        await shop.stock.ack_outbox(sale.sale_id, [outbox_id.decode()])
        mark = outbox.mark_of([outbox_id.decode()])
        assert await shop.place(grab._replace(outbox_mark=mark)) == []
        return grab

    return place


@pytest.fixture
def photograph(store):
    """Take the keys of a sale as they are; calling what comes back restores them."""

    async def take(sale):
        names = [name async for name in store.scan_iter(f"sk:{{{sale.sale_id}}}:*")]
        dumps = {name: await store.dump(name) for name in names}

        async def restore():
            async for name in store.scan_iter(f"sk:{{{sale.sale_id}}}:*"):
                await store.delete(name)
            for name, dump in dumps.items():
                await store.restore(name, 0, dump)

        return restore

    return take


async def test_F8_a_redis_that_went_back_in_time_is_fenced_and_rebuilt(
    open_sale, shop, store, db, placed_with_mark, photograph, told, run, assert_balanced
):
    sale = await open_sale(stock=3)
    await placed_with_mark(sale, "ann")
    restore = await photograph(sale)
    await placed_with_mark(sale, "bob")
    assert await trouble_of(store, db, sale) is None
    await restore()

    assert await trouble_of(store, db, sale) is FenceReason.BEHIND
    assert await told(sale, "x") == "A", "a look alone changes nothing"
    await restore()
    standing = (await fencing.survey(store, db, [sale.sale_id], fence=True))[sale.sale_id]
    assert standing.trouble is FenceReason.BEHIND
    assert await told(sale, "x") == "U"
    assert await trouble_of(store, db, sale) is FenceReason.FENCED

    await run(sale)
    assert await trouble_of(store, db, sale) is None
    await assert_balanced(sale)
    assert await told(sale, "ann", "bob", "cat", "dan") == "DDAS"


async def test_F8_a_redis_from_before_the_rebuild_is_behind(
    open_sale, shop, store, db, photograph, lose, run
):
    sale = await open_sale()
    restore = await photograph(sale)
    await lose(sale)
    await run(sale)
    await restore()
    assert await trouble_of(store, db, sale) is FenceReason.BEHIND


async def test_F8_a_redis_from_before_the_opening_is_behind(
    open_sale, db, store, stock, photograph
):
    sale = await open_sale(opened=False)
    restore = await photograph(sale)
    await sales.open_(db, stock, sale.sale_id)
    assert await trouble_of(store, db, sale) is None
    await restore()
    assert await trouble_of(store, db, sale) is FenceReason.BEHIND


@pytest.mark.parametrize(
    ("lost", "trouble"),
    [("sale", FenceReason.LOST), ("stock", FenceReason.LOST), ("outbox", FenceReason.BEHIND)],
)
async def test_a_sale_without_one_of_its_keys_is_in_trouble(
    open_sale, store, db, placed_with_mark, lost, trouble
):
    sale = await open_sale()
    await placed_with_mark(sale, "ann")
    await store.delete(getattr(redis_keys, lost)(sale.sale_id))
    assert await trouble_of(store, db, sale) is trouble


async def test_a_running_sale_is_never_taken_for_one_that_went_back(
    open_sale, store, db, placed_with_mark
):
    sale = await open_sale(stock=100)
    buyers = asyncio.gather(*(placed_with_mark(sale, f"b{n}") for n in range(40)))
    looks = 0
    while not buyers.done() or not looks:
        assert await trouble_of(store, db, sale) is None
        looks += 1
    await buyers


async def test_the_mark_of_a_message_that_comes_late_stays_below(
    open_sale, shop, db, placed_with_mark
):
    sale = await open_sale()
    (early,) = await shop.grab(sale, "early")
    await placed_with_mark(sale, "ann")
    mark = partial(
        db.fetchval, "SELECT outbox_mark FROM inventory WHERE sale_id = $1", sale.sale_id
    )
    before = await mark()
    assert before > 0
    await shop.place(early._replace(outbox_mark=1))
    assert await mark() == before


async def test_F8_a_postgresql_from_before_a_rebuild_is_noticed_and_mended(
    open_sale, shop, run, store, db, told, assert_balanced
):
    """Redis is of a life that PostgreSQL has forgotten: each would put the other off for ever."""
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann")
    await run(sale, force=True)
    await db.execute("UPDATE inventory SET epoch = 1 WHERE sale_id = $1", sale.sale_id)

    assert await fencing.needing_rebuild(store, db, [sale.sale_id]) == {
        sale.sale_id: FenceReason.AHEAD
    }
    await run(sale)

    assert await fencing.needing_rebuild(store, db, [sale.sale_id]) == {}
    assert await told(sale, "ann") == "D"
    await assert_balanced(sale)


async def test_a_locked_sale_is_read_as_it_is_then(open_sale, db, blocked, eventually):
    """Whoever waits for the lock of a rebuild must not go on with the epoch of before."""
    sale = await open_sale(opened=False)
    async with db.acquire() as one, one.transaction():
        await sales.lock(one, sale.sale_id)
        await one.execute("UPDATE inventory SET epoch = epoch + 1 WHERE sale_id = $1", sale.sale_id)

        async def lock_and_read():
            async with db.acquire() as other, other.transaction():
                return (await sales.lock(other, sale.sale_id)).epoch

        waiting = asyncio.create_task(lock_and_read())
        await eventually(blocked, "the other waits for the lock")
    assert await waiting == sale.epoch + 1
