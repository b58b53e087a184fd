"""history: a PostgreSQL whose mark is below what Redis remembers was restored from a backup."""

from __future__ import annotations

import asyncpg
import pytest

from consumers.roles.expire_orders import ExpireOrders
from consumers.roles.fence import Fence
from consumers.roles.restore_watch import RestoreWatch
from consumers.roles.sweep import Sweep
from seckill import messages
from seckill.adapters import migrations, postgres
from seckill.consistency import fencing, history
from seckill.consistency.fencing import FenceReason
from seckill.inventory.reservations import Stock
from seckill.sales import sales
from seckill.sales.terms import NewSale
from tests.integration.shop import Shop


@pytest.fixture
async def own_shop(settings, db, redis):
    """Stores with no other sales: a restore fences all that go on."""
    await db.execute("CREATE DATABASE restored")
    dsn = settings.postgres_dsn.rpartition("/")[0] + "/restored"
    try:
        await migrations.migrate(dsn)
        async with postgres.connect(dsn, size=2, timeout_s=5) as own_db:
            yield Shop(own_db, redis, Stock(redis))
    finally:
        await db.execute("DROP DATABASE restored WITH (FORCE)")


@pytest.fixture
def make_sale(own_shop):
    async def make(sale_id: str):
        new = NewSale(sale_id, 5, 1999, payment_window_s=1)
        await sales.create(own_shop.db, own_shop.stock, new)
        return await sales.open_(own_shop.db, own_shop.stock, sale_id)

    return make


async def test_a_mark_that_fell_fences_what_goes_on_and_what_lost_something(
    own_shop, make_sale, caplog
):
    db, redis = own_shop.db, own_shop.store
    _, changed, unchanged, gone = [await make_sale(name) for name in "abcd"]
    watch, fence = RestoreWatch(redis, db), Fence(redis, db)
    await own_shop.order(changed, "ann")
    for sale in (changed, unchanged, gone):
        await sales.close(db, own_shop.stock, sale.sale_id)
    await watch.run_once()
    await fence.run_once()
    assert not await history.is_back_in_time(redis, db)
    # Given a PostgreSQL without the last marks, an order, and a sale
    await db.execute("UPDATE history SET mark = mark - 1")
    await db.execute("UPDATE inventory SET version = version - 1 WHERE sale_id = 'b'")
    await db.execute("DELETE FROM inventory WHERE sale_id = 'd'")
    await db.execute("DELETE FROM sales WHERE sale_id = 'd'")
    # Then it stays behind until the sales are fenced
    assert await history.is_back_in_time(redis, db)
    assert not await history.advance(redis, db)
    assert await history.is_back_in_time(redis, db)
    await watch.run_once()
    assert not await history.is_back_in_time(redis, db)
    reasons = await fencing.needing_rebuild(redis, db)
    assert reasons == dict.fromkeys("ab", FenceReason.RESTORED)
    assert "seckill sale recover a" in caplog.text
    assert "sale d is in Redis, and PostgreSQL knows no such sale any more" in caplog.text
    # And a second look changes nothing
    lines = len(caplog.records)
    assert (await watch.run_once()).done == 0
    assert len(caplog.records) == lines


async def test_no_order_expires_while_its_payment_may_be_forgotten(own_shop, make_sale, eventually):
    db, redis = own_shop.db, own_shop.store
    sale = await make_sale("a")
    (order,) = await own_shop.order(sale, "ann")
    await db.execute("UPDATE orders SET pay_by = now() - interval '1 hour'")
    await history.advance(redis, db)
    await db.execute("UPDATE history SET mark = mark - 1")

    async def try_all():
        sweep, timer = Sweep(redis, db), ExpireOrders(redis, db)
        await sweep.run_once()
        await timer.handle([_Message(messages.encode_expire([order.order_id]))])
        return await own_shop.states(sale, [order])

    # Neither before the sales are fenced nor afterwards
    assert await try_all() == ["pending"]
    await history.fence_restored(redis, db)
    assert await try_all() == ["pending"]
    await db.execute("DELETE FROM restored_sales")
    assert await try_all() == ["cancelled expired"]


class _Message:
    def __init__(self, body: bytes) -> None:
        self.body = body


async def test_an_empty_redis_remembers_nothing_and_accuses_no_sale(own_shop):
    assert isinstance(own_shop.db, asyncpg.Pool)
    assert await history.advance(own_shop.store, own_shop.db)
    await own_shop.store.flushdb()
    assert not await history.is_back_in_time(own_shop.store, own_shop.db)
    assert await history.advance(own_shop.store, own_shop.db)
