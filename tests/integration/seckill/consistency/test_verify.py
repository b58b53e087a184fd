"""verify(): balanced books are balanced, and each way of breaking them has its own complaint."""

from __future__ import annotations

import asyncio
import itertools

import asyncpg
import pytest

from seckill.adapters import redis as redis_client
from seckill.adapters import redis_keys
from seckill.consistency import verify as ledger
from seckill.inventory import stock_returns
from seckill.inventory.reservations import UnitReturn


@pytest.fixture
async def sold(open_sale, shop):
    """A quiet sale of 10 with orders of ann and bob, and a cancelled one of cat."""
    sale = await open_sale(stock=10)
    placed = await shop.order(sale, "ann", "bob", "cat")
    await shop.release(placed[2])
    await shop.return_all(sale)
    return sale, placed


async def complaints(verify, sale, **options):
    """The violations; checked twice, so that a passing one cannot hide."""
    first, second = await verify(sale, **options), await verify(sale, **options)
    assert first.violations == second.violations
    assert first.balanced is (first.violations == [])
    return "\n".join(first.violations)


async def test_quiet_books_balance_and_say_what_there_is(sold, verify):
    sale, _ = sold

    books = await verify(sale)

    assert (books.balanced, books.quiet, books.violations) == (True, True, [])
    assert books.lines == {
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
async def test_a_restock_between_the_stores_is_pending_until_somebody_has_waited(
    sold, verify, db, units
):
    sale, _ = sold
    await db.execute(
        "UPDATE inventory SET total = total + $2, available = available + $2 WHERE sale_id = $1",
        sale.sale_id,
        units,
    )

    books = await verify(sale)
    assert (books.balanced, books.quiet) == (True, False)
    assert books.lines["restock pending"] == units

    assert f"{units} units of a restock" in await complaints(verify, sale, wait_s=0.01)


async def test_a_sale_of_a_version_that_wrote_no_total_is_counted_by_that_of_postgresql(
    sold, verify, store
):
    sale, _ = sold
    await store.hdel(redis_keys.sale(sale.sale_id), "total")
    assert (await verify(sale)).quiet
    await store.decr(redis_keys.stock(sale.sale_id))
    assert "is not total 10" in await complaints(verify, sale)


async def test_paid_orders_count_as_sold(sold, verify, db):
    sale, (ann, *_) = sold
    await db.execute("UPDATE orders SET state = 'paid' WHERE order_id = $1", ann.order_id)
    assert "sold is 0" in await complaints(verify, sale)

    await db.execute("UPDATE inventory SET frozen = 1, sold = 1 WHERE sale_id = $1", sale.sale_id)

    assert await complaints(verify, sale) == (f"I7: orders and payments differ: 1 ({ann.order_id})")


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
async def test_changed_inventory_is_found(sold, verify, db, change, complaint):
    sale, _ = sold

    await db.execute(
        f"UPDATE inventory SET {change} WHERE sale_id = $1",  # noqa: S608 - the list above
        sale.sale_id,
    )

    assert complaint in await complaints(verify, sale)


@pytest.mark.parametrize(
    ("units", "complaint"),
    [(9, "I1: redis stock 9"), (7, "I1: redis stock 7"), (-1, "I2: redis stock is -1")],
)
async def test_F11_tampered_stock_is_found(sold, verify, store, units, complaint):
    sale, _ = sold

    await store.set(redis_keys.stock(sale.sale_id), units)

    assert complaint in await complaints(verify, sale)


async def test_unaudited_correction_is_found(sold, verify, store):
    sale, _ = sold

    await store.hincrby(redis_keys.sale(sale.sale_id), "corrections", 1)

    assert "corrections 1 is not total 10" in await complaints(verify, sale)


async def test_live_order_without_its_holder_is_found(sold, verify, store):
    """Even when its unit was put back, so that Redis in itself balances."""
    sale, (ann, *_) = sold

    await store.hdel(redis_keys.holders(sale.sale_id), "ann")
    await store.incr(redis_keys.stock(sale.sale_id))

    assert await complaints(verify, sale) == (
        f"I1: live orders without a holder: 1 ({ann.order_id})"
    )


async def test_holder_of_another_quantity_than_its_row_is_found(open_sale, shop, verify, db):
    sale = await open_sale(per_order_max=2)
    (ann,) = await shop.order(sale, "ann", quantity=2)

    await db.execute("UPDATE orders SET quantity = 1 WHERE order_id = $1", ann.order_id)
    await db.execute(
        "UPDATE inventory SET available = 9, frozen = 1 WHERE sale_id = $1", sale.sale_id
    )

    assert "I5: quiet, but redis stock is 8" in await complaints(verify, sale)


async def test_order_that_froze_nothing_is_found(sold, shop, verify, db):
    sale, _ = sold

    order_id = await insert_order(db, shop.wish(sale, "eve"))

    found = await complaints(verify, sale)
    assert "I1: frozen is 2, unpaid live orders hold 3" in found
    assert f"live orders without a holder: 1 ({order_id})" in found


async def test_F1_more_sold_than_there_is_is_found(sold, shop, verify, db):
    sale, _ = sold

    await insert_order(db, shop.wish(sale, "eve", 9), state="paid")

    assert "I2: oversold: live orders hold 11 of 10" in await complaints(verify, sale)


async def test_F20_a_second_live_order_of_a_buyer_is_impossible(sold, shop, db):
    sale, _ = sold

    with pytest.raises(asyncpg.UniqueViolationError):
        await insert_order(db, shop.wish(sale, "ann"))


async def test_F8_a_sale_missing_in_redis_is_found(sold, verify, store):
    sale, _ = sold

    await store.delete(
        *(key(sale.sale_id) for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders))
    )

    assert await complaints(verify, sale) == (
        f"Redis has lost sale {sale.sale_id}; it sells nothing until it is rebuilt: "
        f"seckill sale rebuild {sale.sale_id}"
    )


async def test_F8_a_sale_whose_stock_alone_is_missing_is_found(sold, verify, store):
    sale, _ = sold

    await store.delete(redis_keys.stock(sale.sale_id))

    assert "Redis has lost sale" in await complaints(verify, sale)


async def test_a_sale_that_postgresql_does_not_know_is_found(store, db):
    books = await ledger.verify(store, db, "no-such-sale")

    assert books.violations == ["PostgreSQL knows no sale no-such-sale"]


# What is under way is no violation, until somebody has waited for its end.


async def test_F12_holder_without_a_row_is_in_flight(open_sale, shop, verify):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")

    books = await verify(sale)

    assert (books.balanced, books.quiet) == (True, False)
    assert (books.in_flight, books.return_pending) == ([ann.order_id], [])
    assert f"1 ({ann.order_id}) in flight" in await complaints(verify, sale, wait_s=0.01)


async def test_I5_a_holder_that_an_open_letter_names_is_at_rest_and_named(
    open_sale, shop, verify, letters
):
    """It waits for an operator: no violation, not in flight, and not a thing to wait for."""
    sale = await open_sale(per_order_max=2)
    await shop.order(sale, "ann")
    (dead,) = await shop.grab(sale, "bob", quantity=2)
    await letters.naming(dead)

    books = await verify(sale, wait_s=0.01)

    assert (books.violations, books.quiet) == ([], True)
    assert (books.on_dead_letters, books.in_flight) == ([dead.order_id], [])
    assert (books.lines["dead letters"], books.lines["on dead letters"]) == (1, 1)
    assert books.lines["in flight"] == 0


async def test_I5_what_is_missing_beside_those_on_dead_letters_is_found(
    open_sale, shop, verify, letters, db
):
    sale = await open_sale(per_order_max=2)
    ann, dead = await shop.grab(sale, "ann", "bob", quantity=2)
    await shop.place(ann)
    await letters.naming(dead)
    assert await complaints(verify, sale) == ""

    await db.execute("UPDATE orders SET quantity = 1 WHERE order_id = $1", ann.order_id)
    await db.execute(
        "UPDATE inventory SET available = 9, frozen = 1 WHERE sale_id = $1", sale.sale_id
    )

    assert "I5: quiet, but redis stock is 6" in await complaints(verify, sale)


@pytest.mark.parametrize("state", ["replayed", "discarded"])
async def test_I5_a_closed_letter_leaves_its_holder_in_flight(
    open_sale, shop, verify, letters, db, state
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    await letters.naming(ann)
    await db.execute("UPDATE dead_letters SET state = $1", state)

    books = await verify(sale)

    assert (books.on_dead_letters, books.in_flight) == ([], [ann.order_id])
    assert books.lines["dead letters"] == 0
    assert ann.order_id in await complaints(verify, sale, wait_s=0.01)


async def test_F16_holder_of_a_cancelled_order_is_a_return_pending(open_sale, shop, verify):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.release(ann)

    books = await verify(sale)

    assert (books.balanced, books.quiet) == (True, False)
    assert (books.in_flight, books.return_pending) == ([], [ann.order_id])
    assert books.lines["returns pending"] == 1
    assert f"1 ({ann.order_id}) on their way back" in await complaints(verify, sale, wait_s=0.01)


async def test_F16_a_lost_return_is_a_violation_for_those_who_wait(open_sale, shop, verify, db):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.release(ann)
    await db.execute("DELETE FROM stock_returns WHERE sale_id = $1", sale.sale_id)

    assert ann.order_id in await complaints(verify, sale, wait_s=0.01)


async def test_unsettled_outbox_entry_is_not_quiet(open_sale, shop, verify):
    sale = await open_sale()
    await shop.place(*await shop.grab(sale, "ann", settle=False))

    assert not (await verify(sale)).quiet
    assert "1 outbox entries" in await complaints(verify, sale, wait_s=0.01)


async def test_many_ids_are_counted_and_some_named(open_sale, shop, verify):
    sale = await open_sale(stock=20)
    await shop.grab(sale, *(f"buyer-{i}" for i in range(12)))

    assert "and 7 more) in flight" in await complaints(verify, sale, wait_s=0.01)


async def test_waiting_ends_when_the_last_thing_has_arrived(open_sale, shop, verify):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann")
    checking = asyncio.create_task(verify(sale, wait_s=60))
    await asyncio.sleep(0)  # it has begun to look before the row is there
    await shop.place(*grabs)

    books = await checking

    assert books.balanced
    assert books.quiet


async def test_a_running_sale_is_never_accused(open_sale, shop, verify, db, stock):
    """Grabs, orders, cancellations and returns all the while: no look may cry wolf."""
    sale = await open_sale(stock=100)
    done = asyncio.Event()

    async def shoppers(name):
        turns = 0
        while not done.is_set():
            turns += 1
            placed = await shop.order(sale, *(f"{name}-{turns}-{i}" for i in range(3)))
            await shop.release(*placed)
            await stock_returns.return_batch(db, stock)
        return turns

    shopping = [asyncio.create_task(shoppers(f"group-{i}")) for i in range(4)]
    try:
        accused = [text for _ in range(40) for text in (await verify(sale)).violations]
    finally:
        done.set()
        turns = await asyncio.gather(*shopping)

    assert accused == []
    assert min(turns) > 1  # it did move
    await shop.return_all(sale)
    assert (await verify(sale, wait_s=30)).balanced


class Watched:
    """A client of Redis that lets something happen before each of its round trips."""

    def __init__(self, client, happen):
        self._execute_command, self._pipeline = client.execute_command, client.pipeline
        self._happen = happen
        client.execute_command, client.pipeline = self.execute_command, self.pipeline

    async def execute_command(self, *args, **options):
        await self._happen()
        return await self._execute_command(*args, **options)

    def pipeline(self, *args, **options):
        pipe = self._pipeline(*args, **options)
        execute = pipe.execute

        async def watched(*args, **options):
            await self._happen()
            return await execute(*args, **options)

        pipe.execute = watched
        return pipe


@pytest.mark.parametrize("moves", list(itertools.combinations(range(6), 2)), ids=str)
async def test_a_grab_and_its_return_between_any_two_reads_of_redis_accuse_nobody(
    open_sale, shop, settings, db, stock, moves
):
    """Stock and the number of holders are then as before, but the holders seen may not be."""
    sale = await open_sale()
    await shop.order(sale, "ann")
    trips = itertools.count()

    async def happen():
        trip = next(trips)
        if trip == moves[0]:
            await shop.grab(sale, "bob")
        if trip == moves[1]:
            back = UnitReturn("bob", str((await shop.holders(sale))["bob"]), 1)
            assert await stock.return_units(sale.sale_id, sale.epoch, [back])

    client = redis_client.connect(settings.redis_url, timeout_s=5)
    try:
        Watched(client, happen)
        books = await ledger.verify(client, db, sale.sale_id)
    finally:
        await client.aclose()

    assert books.violations == []


async def insert_order(db, placement, state="pending"):
    """Insert a row behind the back of place()."""
    await db.execute(
        "INSERT INTO orders (order_id, sale_id, buyer_id, quantity, amount_cents, state, pay_by)"
        " VALUES ($1, $2, $3, $4, 1, $5, now() + interval '1 hour')",
        *placement[:4],
        state,
    )
    return placement.order_id
