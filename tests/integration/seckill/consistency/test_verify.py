"""verify: a ledger that balances is balanced, and each fault has its own complaint."""

from __future__ import annotations

import asyncpg
import pytest

from seckill.adapters import redis_keys
from seckill.consistency.verify import verify as verify_sale


@pytest.fixture
async def sold(open_sale, shop):
    """A quiet sale of 10 with orders of ann and bob, and a cancelled one of cat."""
    sale = await open_sale(stock=10)
    placed = await shop.order(sale, "ann", "bob", "cat")
    await shop.release(placed[2])
    await shop.return_all(sale)
    return sale, placed


async def test_a_quiet_sale_balances_and_every_line_is_counted(sold, verify):
    sale, _ = sold

    ledger = await verify(sale)

    assert (ledger.balanced, ledger.quiet, ledger.violations) == (True, True, [])
    assert ledger.lines == {
        "total": 10,
        "available": 8,
        "frozen": 2,
        "sold": 0,
        "orders pending": 2,
        "orders paying": 0,
        "orders paid": 0,
        "orders cancelled": 1,
        "orders rejected": 0,
        "orders refunding": 0,
        "orders refunded": 0,
        "returns pending": 0,
        "charged, cents": 0,
        "discounted, cents": 0,
        "refunded, cents": 0,
        "transactions open": 0,
        "card payments unknown": 0,
        "redis stock": 8,
        "redis holders": 2,
        "redis held units": 2,
        "redis corrections": 0,
        "redis moving": 0,
        "outbox entries": 0,
        "restock pending": 0,
        "in flight": 0,
        "oldest in flight, s": 0,
        "return pending": 0,
        "dead letters": 0,
        "on dead letters": 0,
    }


@pytest.mark.parametrize("units", [1, -1])
async def test_a_restock_between_the_stores_is_pending_until_the_caller_has_waited(
    sold, verify, complaints, db, units
):
    sale, _ = sold
    await db.execute(
        "UPDATE inventory SET total = total + $2, available = available + $2 WHERE sale_id = $1",
        sale.sale_id,
        units,
    )

    ledger = await verify(sale)
    assert (ledger.balanced, ledger.quiet) == (True, False)
    assert ledger.lines["restock pending"] == units

    assert f"{units} units of a restock" in await complaints(sale, wait_s=0.01)


async def test_a_sale_of_a_version_that_wrote_no_total_is_counted_by_that_of_postgresql(
    sold, verify, complaints, store
):
    sale, _ = sold
    await store.hdel(redis_keys.sale(sale.sale_id), "total")
    assert (await verify(sale)).quiet
    await store.decr(redis_keys.stock(sale.sale_id))
    assert "is not total 10" in await complaints(sale)


async def test_paid_orders_count_as_sold(sold, complaints, db):
    sale, (ann, *_) = sold
    await db.execute("UPDATE orders SET state = 'paid' WHERE order_id = $1", ann.order_id)
    assert "sold is 0" in await complaints(sale)

    await db.execute("UPDATE inventory SET frozen = 1, sold = 1 WHERE sale_id = $1", sale.sale_id)

    assert await complaints(sale) == (f"I7: orders and payments differ: 1 ({ann.order_id})")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("available = available - 1, frozen = frozen + 1", "I1: frozen is 3"),
        ("available = available + 1, frozen = frozen - 1", "I1: frozen is 1"),
        ("available = available - 1, sold = sold + 1", "I1: sold is 1"),
        ("frozen = frozen - 1, sold = sold + 1", "I1: sold is 1"),
        ("epoch = epoch + 1", "epoch is 1 in Redis and 2 in PostgreSQL"),
    ],
)
async def test_changed_inventory_is_found(sold, complaints, db, change, complaint):
    sale, _ = sold

    await db.execute(
        f"UPDATE inventory SET {change} WHERE sale_id = $1",  # noqa: S608 - the list above
        sale.sale_id,
    )

    assert complaint in await complaints(sale)


# PostgreSQL itself refuses the next two. A table that was restored without its guards does not.


async def test_I1_units_that_do_not_add_up_are_found(sold, complaints, db):
    sale, _ = sold
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'inventory_check'"
    guard = await db.fetchval(query)
    changed = "UPDATE inventory SET available = available + $2 WHERE sale_id = $1"
    await db.execute("ALTER TABLE inventory DROP CONSTRAINT inventory_check")
    try:
        await db.execute(changed, sale.sale_id, 1)
        assert "I1: available + frozen + sold is not total" in await complaints(sale)
    finally:
        await db.execute(changed, sale.sale_id, -1)
        await db.execute(f"ALTER TABLE inventory ADD CONSTRAINT inventory_check {guard}")


async def test_I3_two_live_orders_of_one_buyer_are_found(sold, complaints, db):
    sale, (_, bob, _) = sold
    guard = await db.fetchval("SELECT pg_get_indexdef('orders_live'::regclass)")
    given = "UPDATE orders SET buyer_id = $2 WHERE order_id = $1"
    await db.execute("DROP INDEX orders_live")
    try:
        await db.execute(given, bob.order_id, "ann")
        assert "I3: more than one live order: 1 (ann)" in await complaints(sale)
    finally:
        await db.execute(given, bob.order_id, "bob")
        await db.execute(guard)


@pytest.mark.parametrize(
    ("units", "complaint"),
    [(9, "I1: redis stock 9"), (7, "I1: redis stock 7"), (-1, "I2: redis stock is -1")],
)
async def test_F11_tampered_stock_is_found(sold, complaints, store, units, complaint):
    sale, _ = sold

    await store.set(redis_keys.stock(sale.sale_id), units)

    assert complaint in await complaints(sale)


async def test_unaudited_correction_is_found(sold, complaints, store):
    sale, _ = sold

    await store.hincrby(redis_keys.sale(sale.sale_id), "corrections", 1)

    assert "corrections 1 is not total 10" in await complaints(sale)


async def test_live_order_without_its_holder_is_found(sold, complaints, store):
    """Even when its unit was put back, so that Redis in itself balances."""
    sale, (ann, *_) = sold

    await store.hdel(redis_keys.holders(sale.sale_id), "ann")
    await store.incr(redis_keys.stock(sale.sale_id))

    assert await complaints(sale) == (f"I1: live orders without a holder: 1 ({ann.order_id})")


async def test_holder_of_another_quantity_than_its_row_is_found(open_sale, shop, complaints, db):
    sale = await open_sale(per_order_max=2)
    (ann,) = await shop.order(sale, "ann", quantity=2)

    await db.execute("UPDATE orders SET quantity = 1 WHERE order_id = $1", ann.order_id)
    await db.execute(
        "UPDATE inventory SET available = 9, frozen = 1 WHERE sale_id = $1", sale.sale_id
    )

    assert "I5: quiet, but redis stock is 8" in await complaints(sale)


async def test_order_that_froze_nothing_is_found(sold, shop, complaints, db):
    sale, _ = sold

    order_id = await insert_order(db, shop.wish(sale, "eve"))

    found = await complaints(sale)
    assert "I1: frozen is 2, unpaid live orders hold 3" in found
    assert f"live orders without a holder: 1 ({order_id})" in found


async def test_F1_more_sold_than_there_is_is_found(sold, shop, complaints, db):
    sale, _ = sold

    await insert_order(db, shop.wish(sale, "eve", 9), state="paid")

    assert "I2: oversold: live orders hold 11 of 10" in await complaints(sale)


async def test_F20_a_second_live_order_of_a_buyer_is_impossible(sold, shop, db):
    sale, _ = sold

    with pytest.raises(asyncpg.UniqueViolationError):
        await insert_order(db, shop.wish(sale, "ann"))


async def test_F8_a_sale_missing_in_redis_is_found(sold, complaints, store):
    sale, _ = sold

    await store.delete(
        *(key(sale.sale_id) for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders))
    )

    assert await complaints(sale) == (
        f"Redis has lost sale {sale.sale_id}; it sells nothing until it is rebuilt: "
        f"seckill sale rebuild {sale.sale_id}"
    )


async def test_F8_a_sale_whose_stock_alone_is_missing_is_found(sold, complaints, store):
    sale, _ = sold

    await store.delete(redis_keys.stock(sale.sale_id))

    assert "Redis has lost sale" in await complaints(sale)


async def test_a_sale_that_postgresql_does_not_know_is_found(store, db):
    ledger = await verify_sale(store, db, "no-such-sale")

    assert ledger.violations == ["PostgreSQL knows no sale no-such-sale"]


async def insert_order(db, placement, state="pending"):
    """Insert a row behind the back of place()."""
    await db.execute(
        "INSERT INTO orders (order_id, sale_id, buyer_id, quantity, amount_cents, state, pay_by)"
        " VALUES ($1, $2, $3, $4, 1, $5, now() + interval '1 hour')",
        *placement[:4],
        state,
    )
    return placement.order_id
