"""fencing: a Redis that lost a sale, or went back in time, sells nothing."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from seckill.adapters import redis_keys
from seckill.consistency import fencing
from seckill.consistency.fencing import FenceReason
from seckill.inventory import outbox
from seckill.sales import sales


async def fence_reason_of(store, db, sale):
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
    open_sale, shop, store, db, placed_with_mark, photograph, verdicts, run, assert_balanced
):
    sale = await open_sale(stock=3)
    await placed_with_mark(sale, "ann")
    restore = await photograph(sale)
    await placed_with_mark(sale, "bob")
    assert await fence_reason_of(store, db, sale) is None
    await restore()

    assert await fence_reason_of(store, db, sale) is FenceReason.BEHIND
    assert await verdicts(sale, "x") == "A", "a comparison alone changes nothing"
    await restore()
    standing = (await fencing.survey(store, db, [sale.sale_id], fence=True))[sale.sale_id]
    assert standing.fence_reason is FenceReason.BEHIND
    assert await verdicts(sale, "x") == "U"
    assert await fence_reason_of(store, db, sale) is FenceReason.FENCED

    await run(sale)
    assert await fence_reason_of(store, db, sale) is None
    await assert_balanced(sale)
    assert await verdicts(sale, "ann", "bob", "cat", "dan") == "DDAS"


async def test_F8_a_redis_from_before_the_rebuild_is_behind(
    open_sale, shop, store, db, photograph, lose, run
):
    sale = await open_sale()
    restore = await photograph(sale)
    await lose(sale)
    await run(sale)
    await restore()
    assert await fence_reason_of(store, db, sale) is FenceReason.BEHIND


async def test_F8_a_redis_from_before_the_opening_is_behind(
    open_sale, db, store, stock, photograph
):
    sale = await open_sale(opened=False)
    restore = await photograph(sale)
    await sales.open_(db, stock, sale.sale_id)
    assert await fence_reason_of(store, db, sale) is None
    await restore()
    assert await fence_reason_of(store, db, sale) is FenceReason.BEHIND


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
    assert await fence_reason_of(store, db, sale) is trouble


async def test_a_running_sale_is_never_taken_for_one_that_went_back(
    open_sale, store, db, placed_with_mark
):
    sale = await open_sale(stock=100)
    buyers = asyncio.gather(*(placed_with_mark(sale, f"b{n}") for n in range(40)))
    reads = 0
    while not buyers.done() or not reads:
        assert await fence_reason_of(store, db, sale) is None
        reads += 1
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
    open_sale, shop, run, store, db, verdicts, assert_balanced
):
    """Redis has an epoch that PostgreSQL has forgotten: each would wait for the other for ever."""
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann")
    await run(sale, force=True)
    await db.execute("UPDATE inventory SET epoch = 1 WHERE sale_id = $1", sale.sale_id)

    assert await fencing.needing_rebuild(store, db, [sale.sale_id]) == {
        sale.sale_id: FenceReason.AHEAD
    }
    await run(sale)

    assert await fencing.needing_rebuild(store, db, [sale.sale_id]) == {}
    assert await verdicts(sale, "ann") == "D"
    await assert_balanced(sale)
