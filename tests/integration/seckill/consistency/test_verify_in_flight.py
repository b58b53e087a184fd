"""verify: what is under way is no violation, until the caller has waited for its end."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from seckill.adapters import redis as redis_client
from seckill.consistency.verify import verify as verify_sale
from seckill.inventory import stock_returns
from seckill.inventory.reservations import UnitReturn


async def test_F12_holder_without_a_row_is_in_flight(open_sale, shop, verify, complaints):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")

    ledger = await verify(sale)

    assert (ledger.balanced, ledger.quiet) == (True, False)
    assert (ledger.in_flight, ledger.return_pending) == ([ann.order_id], [])
    assert f"1 ({ann.order_id}) in flight" in await complaints(sale, wait_s=0.01)


async def test_I5_a_holder_that_an_open_letter_names_is_at_rest_and_named(
    open_sale, shop, verify, letters
):
    """It waits for an operator: no violation, not in flight, and not a thing to wait for."""
    sale = await open_sale(per_order_max=2)
    await shop.order(sale, "ann")
    (dead,) = await shop.grab(sale, "bob", quantity=2)
    await letters.naming(dead)

    ledger = await verify(sale, wait_s=0.01)

    assert (ledger.violations, ledger.quiet) == ([], True)
    assert (ledger.on_dead_letters, ledger.in_flight) == ([dead.order_id], [])
    assert (ledger.lines["dead letters"], ledger.lines["on dead letters"]) == (1, 1)
    assert ledger.lines["in flight"] == 0


async def test_I5_what_is_missing_beside_those_on_dead_letters_is_found(
    open_sale, shop, complaints, letters, db
):
    sale = await open_sale(per_order_max=2)
    ann, dead = await shop.grab(sale, "ann", "bob", quantity=2)
    await shop.place(ann)
    await letters.naming(dead)
    assert await complaints(sale) == ""

    await db.execute("UPDATE orders SET quantity = 1 WHERE order_id = $1", ann.order_id)
    await db.execute(
        "UPDATE inventory SET available = 9, frozen = 1 WHERE sale_id = $1", sale.sale_id
    )

    assert "I5: quiet, but redis stock is 6" in await complaints(sale)


@pytest.mark.parametrize("state", ["replayed", "discarded"])
async def test_I5_a_closed_letter_leaves_its_holder_in_flight(
    open_sale, shop, verify, complaints, letters, db, state
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    await letters.naming(ann)
    await db.execute("UPDATE dead_letters SET state = $1", state)

    ledger = await verify(sale)

    assert (ledger.on_dead_letters, ledger.in_flight) == ([], [ann.order_id])
    assert ledger.lines["dead letters"] == 0
    assert ann.order_id in await complaints(sale, wait_s=0.01)


async def test_F16_holder_of_a_cancelled_order_is_a_return_pending(
    open_sale, shop, verify, complaints
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.release(ann)

    ledger = await verify(sale)

    assert (ledger.balanced, ledger.quiet) == (True, False)
    assert (ledger.in_flight, ledger.return_pending) == ([], [ann.order_id])
    assert ledger.lines["returns pending"] == 1
    assert f"1 ({ann.order_id}) on their way back" in await complaints(sale, wait_s=0.01)


async def test_F16_a_lost_return_is_a_violation_for_those_who_wait(open_sale, shop, complaints, db):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.release(ann)
    await db.execute("DELETE FROM stock_returns WHERE sale_id = $1", sale.sale_id)

    assert ann.order_id in await complaints(sale, wait_s=0.01)


async def test_unsettled_outbox_entry_is_not_quiet(open_sale, shop, verify, complaints):
    sale = await open_sale()
    await shop.place(*await shop.grab(sale, "ann", settle=False))

    assert not (await verify(sale)).quiet
    assert "1 outbox entries" in await complaints(sale, wait_s=0.01)


async def test_many_ids_are_counted_and_some_named(open_sale, shop, complaints):
    sale = await open_sale(stock=20)
    await shop.grab(sale, *(f"buyer-{i}" for i in range(12)))

    assert "and 7 more) in flight" in await complaints(sale, wait_s=0.01)


async def test_waiting_ends_when_the_last_thing_has_arrived(open_sale, shop, verify):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann")
    checking = asyncio.create_task(verify(sale, wait_s=60))
    await asyncio.wait({checking}, timeout=0.3)
    assert not checking.done(), "a holder has no row"
    await shop.place(*grabs)

    ledger = await checking

    assert ledger.balanced
    assert ledger.quiet


async def test_a_running_sale_has_no_violation(open_sale, shop, verify, db, stock):
    """Grabs, orders, cancellations and returns all the while: no count may report a violation."""
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
        violations = [text for _ in range(40) for text in (await verify(sale)).violations]
    finally:
        done.set()
        turns = await asyncio.gather(*shopping)

    assert violations == []
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
async def test_a_grab_and_its_return_between_any_two_reads_of_redis_are_no_violation(
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
        ledger = await verify_sale(client, db, sale.sale_id)
    finally:
        await client.aclose()

    assert ledger.violations == []
