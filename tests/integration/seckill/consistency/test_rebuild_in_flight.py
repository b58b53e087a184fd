"""rebuild: what is under way is placed before, or rejected by its epoch."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from seckill.consistency import drain
from seckill.consistency.drain import InFlight, wait_until_placed
from seckill.inventory import stock_returns


async def test_F8_a_message_of_the_old_epoch_is_rejected_and_returns_nothing(
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
    open_sale, shop, run, verdicts, assert_balanced
):
    """I4: a buyer who got 202 has a row, also if the message is lost."""
    sale = await open_sale(stock=2)
    placed, in_flight = await shop.order(sale, "ann"), await shop.grab(sale, "bob")

    assert (await run(sale, force=True)).rejected == 1

    assert await shop.states(sale, placed + in_flight) == ["pending", "rejected epoch"]
    assert await verdicts(sale, "ann", "bob", "cat") == "DAS"


async def test_an_outbox_entry_of_the_old_epoch_stays_for_the_relay(open_sale, shop, run, store):
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
    monkeypatch.setattr(drain, "COUNTS_APART_S", 0.05)
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

    state = {"place": "pending", "rebuild": "rejected epoch"}[first]
    assert await shop.states(sale, late) == [state]
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

    async def end_and_lift(ledger):
        await shop.release(ann)  # after the ledger were read, and before the fence is lifted
        await stock_returns.return_batch(db, stock)
        assert await db.fetchval(waits, ann.order_id)
        await lift(ledger)

    waits = "SELECT EXISTS (SELECT FROM stock_returns WHERE order_id = $1)"
    monkeypatch.setattr(rebuilder, "_lift", end_and_lift)
    await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    assert await shop.left(sale) == 2
    await db.execute("UPDATE stock_returns SET due_at = now()")
    await shop.return_all(sale)
    assert not await db.fetchval(waits, ann.order_id)
    assert await shop.left(sale) == 3
    assert await shop.holders(sale) == {}
    await assert_balanced(sale)
