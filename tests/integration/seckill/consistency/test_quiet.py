"""Sales that are over and quiet are left out by pollers; a change makes one live again."""

from __future__ import annotations

import pytest

from consumers.roles.fence import Fence
from seckill.adapters import redis_keys
from seckill.consistency import fencing, quiet
from seckill.order_ids import new_order_id
from seckill.sales import listing, restock, sales


@pytest.fixture
def ended(shop, open_sale):
    """Make a sale that was closed an hour ago: `await ended(stock=4)`."""

    async def make(**terms):
        return await shop.end(await open_sale(**terms))

    return make


@pytest.fixture
def mark(store, db):
    """Mark a sale as quiet if it is; return whether it then is."""

    async def mark(sale):
        states = await fencing.survey(store, db, [sale.sale_id])
        await quiet.mark_small(store, db, states)
        return sale.sale_id not in await listing.live_ids(db)

    return mark


async def pay(db, sale):
    """Take all orders of a sale for paid."""
    await db.execute("UPDATE orders SET state = 'paid' WHERE sale_id = $1", sale.sale_id)
    await db.execute(
        "UPDATE inventory SET sold = frozen, frozen = 0, version = version + 1 WHERE sale_id = $1",
        sale.sale_id,
    )


async def test_only_a_sale_that_is_over_and_quiet_is_left_out(
    db, stock, shop, store, open_sale, ended, mark
):
    running, just_closed = await open_sale(), await open_sale()
    await sales.close(db, stock, just_closed.sale_id)
    assert not await mark(running)
    assert not await mark(just_closed)

    sale = await open_sale(stock=5)
    (unsent,) = await shop.grab(sale, "ann", settle=False)
    await shop.end(sale)
    assert not await mark(sale)  # an outbox entry, and no row
    await shop.place(unsent)
    assert not await mark(sale)  # the outbox entry
    await store.xtrim(redis_keys.outbox(sale.sale_id), maxlen=0)
    assert not await mark(sale)  # an unpaid order
    await shop.release(unsent)
    assert not await mark(sale)  # units to give back
    await shop.return_all(sale)
    assert await mark(sale)


async def test_holders_are_compared_by_name(db, shop, store, open_sale, mark):
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann", "bob")
    await pay(db, sale)
    await shop.end(sale)
    held = await store.hget(redis_keys.holders(sale.sale_id), "ann")
    another = f"{new_order_id(sale.number)}:1"
    await store.hset(redis_keys.holders(sale.sale_id), "ann", another)
    assert not await mark(sale)
    await store.hset(redis_keys.holders(sale.sale_id), "ann", held)
    assert await mark(sale)


async def test_a_sale_that_ended_by_its_own_time_or_never_opened_is_quiet_too(
    db, stock, open_sale, mark
):
    by_time, created = await open_sale(), await open_sale(opened=False)
    await db.execute(
        "UPDATE sales SET created_at = now() - interval '1 hour',"
        " closes_at = CASE sale_id WHEN $1 THEN now() - interval '1 hour' END"
        " WHERE sale_id IN ($1, $2)",
        by_time.sale_id,
        created.sale_id,
    )
    assert await mark(by_time)
    assert await mark(created)
    await sales.open_(db, stock, created.sale_id)
    assert created.sale_id in await listing.live_ids(db)


@pytest.mark.parametrize("change", ["an outbox entry", "a holder", "a state", "a refund"])
async def test_whatever_changes_in_a_quiet_sale_makes_it_live_again(
    db, store, shop, ended, mark, change
):
    sale = await ended()
    assert await mark(sale)
    fence = Fence(store, db)
    await fence.check()
    assert sale.sale_id not in await listing.live_ids(db)

    sale_key, holders_key = redis_keys.sale(sale.sale_id), redis_keys.holders(sale.sale_id)
    match change:
        case "an outbox entry":
            await store.xadd(redis_keys.outbox(sale.sale_id), {"epoch": 1, "grabs": b"\x90"})
        case "a holder":
            await store.hset(holders_key, "ann", f"{shop.wish(sale, 'ann').order_id}:1")
        case "a state":
            await store.hset(sale_key, "state", "open")
        case "a refund":
            await db.execute(
                "UPDATE inventory SET version = version + 1 WHERE sale_id = $1", sale.sale_id
            )
    await look_at_all(fence, db)
    assert sale.sale_id in await listing.live_ids(db)


async def look_at_all(fence, db):
    """Let the fence go round all quiet sales once."""
    count = await db.fetchval("SELECT count(*) FROM sales WHERE quiet_stamp IS NOT NULL")
    for _ in range(count // quiet.PAGE + 2):
        await fence.check()


async def test_a_quiet_sale_that_redis_lost_is_reported_until_it_is_rebuilt(db, store, ended, mark):
    sale = await ended()
    assert await mark(sale)
    fence = Fence(store, db)
    await store.delete(redis_keys.stock(sale.sale_id), redis_keys.sale(sale.sale_id))
    await look_at_all(fence, db)
    for _ in range(3):
        assert (await fence.check())[sale.sale_id] == fencing.FenceReason.LOST
    await sales.wake(db, sale.sale_id)
    await store.hset(redis_keys.sale(sale.sale_id), mapping={"state": "closed", "epoch": 1})
    await store.set(redis_keys.stock(sale.sale_id), sale.total)
    assert sale.sale_id not in await fence.check()


async def test_opening_and_restocking_wake_a_sale_before_redis_changes(db, stock, ended, mark):
    for change in (
        lambda id_: restock.restock(db, stock, id_, 1, actor="test", reason="test"),
        lambda id_: sales.open_(db, stock, id_),
    ):
        sale = await ended()
        assert await mark(sale)
        await change(sale.sale_id)
        assert sale.sale_id in await listing.live_ids(db)
