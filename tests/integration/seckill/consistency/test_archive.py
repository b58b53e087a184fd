"""An archived sale is gone from Redis, whole in PostgreSQL, and cannot come back."""

from __future__ import annotations

import pytest

from consumers.roles.archive import Archive
from seckill.adapters import redis_keys
from seckill.consistency import archive
from seckill.consistency.rebuild import Rebuild
from seckill.errors import WrongState
from seckill.inventory import stock_returns
from seckill.payments import refunds
from seckill.sales import drafts, rate_limits, restock, sales
from seckill.sales.archived import ArchivedSales
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.token_buckets import TokenBuckets
from tests.checkout import payer
from tests.fulfilment import FulfilmentWorker

BY_HAND = {"actor": "test", "reason": "test"}


@pytest.fixture
def keys_of(store):
    async def keys_of(sale):
        return [key async for key in store.scan_iter(f"sk:{{{sale.sale_id}}}:*", count=10_000)]

    return keys_of


@pytest.fixture
async def sold(db, shop, open_sale, checkout):
    """A closed sale with a paid order and a cancelled one; the paid one."""
    sale, buyer = await open_sale(stock=5), payer()
    paid, cancelled = await shop.order(sale, buyer, "bob")
    await shop.release(cancelled)
    await shop.return_all(sale)
    await checkout.give(buyer, 10_000)
    await checkout.pay(paid)
    await FulfilmentWorker(db).run(sale.sale_id)
    return await shop.end(sale), paid


async def test_its_keys_are_gone_and_postgresql_keeps_all(db, store, sold, keys_of, shop, verify):
    sale, paid = sold
    await store.hset(redis_keys.bucket(sale.sale_id, "try"), "level", 1)
    rows = await shop.rows(sale)

    for _ in range(2):  # again does no harm
        archived = await archive.archive(store, db, sale.sale_id, **BY_HAND)
        assert (archived.archived, archived.state) == (True, "closed")
        assert await keys_of(sale) == []

    assert await shop.rows(sale) == rows
    ledger = await verify(sale)
    assert ledger.lines["archived"] == 1
    assert ledger.lines["sold"] == 1
    held = await ArchivedSales(db).holdings(sale.sale_id, [paid.buyer_id, "bob"])
    assert held is not None
    assert [h and h.order_id for h in held] == [paid.order_id, None]


async def test_what_is_not_closed_quiet_and_balanced_is_refused_in_one_line(
    db, stock, store, shop, open_sale, keys_of
):
    running, created = await open_sale(), await open_sale(opened=False)
    unpaid, unsent, crooked = [await open_sale() for _ in range(3)]
    await shop.order(unpaid, "ann")
    await shop.grab(unsent, "ann", settle=False)
    for sale in (unpaid, unsent, crooked):
        await sales.close(db, stock, sale.sale_id)
    await store.incr(redis_keys.stock(crooked.sale_id))
    for sale, words in (
        (running, "close it first"),
        (created, "never opened"),
        (unpaid, "1 units are held"),
        (unsent, "not quiet yet"),
        (crooked, "does not balance"),
    ):
        before = await keys_of(sale)
        with pytest.raises(WrongState, match=words) as refused:
            await archive.archive(store, db, sale.sale_id, **BY_HAND)
        assert "\n" not in str(refused.value)
        assert sorted(await keys_of(sale)) == sorted(before)


async def test_a_kill_between_row_and_keys_is_finished_by_the_role(
    db, store, sold, keys_of, monkeypatch
):
    sale, _ = sold

    async def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive, "clear", killed)
        with pytest.raises(KeyboardInterrupt):
            await archive.archive(store, db, sale.sale_id, **BY_HAND)
    assert (await sales.find(db, sale.sale_id)).archived
    assert await keys_of(sale)
    await Archive(store, db, after_days=0).run_once()
    assert await keys_of(sale) == []


async def test_keys_that_a_restored_redis_brings_back_are_deleted(db, store, sold, keys_of):
    sale, _ = sold
    copy = await store.dump(redis_keys.sale(sale.sale_id))
    await archive.archive(store, db, sale.sale_id, **BY_HAND)
    await store.restore(redis_keys.sale(sale.sale_id), 0, copy)
    await Archive(store, db, after_days=0).run_once()
    assert await keys_of(sale) == []


async def test_by_age_quiet_sales_go_and_others_stay(db, store, sold):
    sale, _ = sold
    role = Archive(store, db, after_days=1)
    await db.execute("UPDATE sales SET quiet_stamp = NULL WHERE archived_at IS NULL")
    for age, stamp, archived in (
        ("1 hour", "x", False),  # too young
        ("2 days", None, False),  # not known to be quiet
        ("2 days", "x", True),
    ):
        await db.execute(
            "UPDATE sales SET closed_at = now() - $2::text::interval, quiet_stamp = $3"
            " WHERE sale_id = $1",
            sale.sale_id,
            age,
            stamp,
        )
        await role.run_once()
        assert (await sales.find(db, sale.sale_id)).archived is archived


async def test_units_of_a_refund_have_no_redis_to_return_to(db, stock, store, sold, shop, verify):
    sale, paid = sold
    await archive.archive(store, db, sale.sale_id, **BY_HAND)
    assert await refunds.refund(db, paid.order_id, **BY_HAND) == "refunded"
    assert await shop.returns(sale)
    while await shop.returns(sale):
        assert (await stock_returns.return_batch(db, stock)).done
    assert (await verify(sale)).quiet


async def test_nothing_of_an_archived_sale_can_change_any_more(db, stock, store, sold, keys_of):
    sale, _ = sold
    await archive.archive(store, db, sale.sale_id, **BY_HAND)
    buckets = TokenBuckets(store)
    for change in (
        lambda id_: sales.open_(db, stock, id_),
        lambda id_: sales.close(db, stock, id_),
        lambda id_: sales.resume(db, stock, id_),
        lambda id_: restock.restock(db, stock, id_, 1, **BY_HAND),
        lambda id_: Rebuild(store, db).fence([id_], force=True),
        lambda id_: Rebuild(store, db).run(id_, **BY_HAND),
        lambda id_: rate_limits.set_limit(db, buckets, id_, "try", SaleLimit.of(1)),
        lambda id_: drafts.edit(db, stock, id_, {"stock": 7}),
        lambda id_: drafts.delete(db, stock, id_, actor="test"),
    ):
        with pytest.raises(WrongState):
            await change(sale.sale_id)
    assert await keys_of(sale) == []
