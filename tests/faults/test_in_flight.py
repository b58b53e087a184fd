"""What a gateway has accepted, on its way to a row: not missing, not dropped, not sold twice."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from ops.buyers import grab
from seckill.adapters import redis_keys
from seckill.consistency import verify
from tests.processes import eventually


@pytest.fixture
def state_of(db):
    async def state_of(order_id):
        return await db.fetchval("SELECT state FROM orders WHERE order_id = $1", order_id)

    return state_of


async def test_note_06_what_is_in_flight_is_listed_and_left_alone_until_it_is_an_order(
    processes, open_sale, ticket_for, store, db, amqp_proxy, assert_balanced, state_of
):
    # Given a gateway and consumers that all lose the broker, after a first order was placed
    proxy, url = amqp_proxy
    gateway = await processes.run("gateway", SECKILL_AMQP_URL=url)
    await processes.run("consumers", SECKILL_AMQP_URL=url)
    sale = await open_sale(stock=3, payment_window_s=2)
    async with ClientSession(gateway.url) as http:

        async def press(buyer):
            return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

        unpaid = await press("unpaid")
        await eventually(lambda: state_of(unpaid.order_id), "the first order has a row")
        proxy.freeze()
        # When a grab is accepted, and all who give units back have done their rounds
        late = await press("late")
        assert late.status == 202

        async def unpaid_is_back():
            return not await store.hexists(redis_keys.holders(sale.sale_id), "unpaid")

        await eventually(unpaid_is_back, "the unpaid unit is back")
        # Then the grab is in the ledger as in flight, with its unit, and is its buyer's
        ledger = await verify.verify(store, db, sale.sale_id)
        assert ledger.balanced, ledger.violations
        assert (ledger.in_flight, ledger.return_pending) == ([late.order_id], [])
        assert not ledger.quiet
        assert ledger.lines["redis stock"] == 2
        assert ledger.lines["redis corrections"] == 0
        again = await press("late")
        assert (again.status, again.order_id) == (200, late.order_id)
        proxy.cut()
        proxy.thaw()
    # And it becomes an order once the broker, which has not heard of it, is back
    await eventually(lambda: state_of(late.order_id), "the late order has a row")
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders rejected"] == 0


@pytest.fixture
async def refusing(db):
    """Have PostgreSQL refuse the orders of a buyer, as a later rule might: `refusing("ann")`."""

    @asynccontextmanager
    async def refusing(buyer):
        await db.execute(
            f"ALTER TABLE orders ADD CONSTRAINT refused CHECK (buyer_id <> '{buyer}') NOT VALID"
        )
        try:
            yield
        finally:
            await db.execute("ALTER TABLE orders DROP CONSTRAINT refused")

    return refusing


@pytest.fixture
def letter_of(processes):
    """Wait until `seckill dead list` names an order, and return its letter."""

    async def find(order_id):
        async def look():
            _, out, _ = await processes.ask("dead", "list", "--json")
            named = (
                letter
                for letter in json.loads(out)
                if order_id in [order["order_id"] for order in letter["orders"]]
            )
            return next(named, None)

        return await eventually(look, "the letter is listed")

    return find


async def test_note_07_what_consumers_refuse_is_a_letter_whose_replay_is_the_order(
    processes, open_sale, ticket_for, store, db, assert_balanced, state_of, refusing, letter_of
):
    gateway = await processes.run("gateway")
    await processes.run("consumers")
    sale = await open_sale(stock=2)
    async with ClientSession(gateway.url) as http, refusing("unlucky"):

        async def press(buyer):
            return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

        # Given a buyer who was answered "queued", and whose order PostgreSQL then refuses
        unlucky = await press("unlucky")
        assert unlucky.status == 202
        # Then there is a dead letter that names it and says why
        letter = await letter_of(unlucky.order_id)
        assert "refused" in letter["reason"]
        # And the unit is kept for that buyer, by name, however many others ask for it
        answers = [await press(buyer) for buyer in ("lucky", "late", "later", "unlucky")]
        assert [answer.code or answer.status for answer in answers] == [
            202,
            "sold_out",
            "sold_out",
            200,
        ]
        assert answers[-1].order_id == unlucky.order_id
        await eventually(lambda: state_of(answers[0].order_id), "the other order has a row")
        ledger = await assert_balanced(sale)
        assert ledger.on_dead_letters == [unlucky.order_id]
        # And replayed before the cause is mended, it is a letter again, as the command says
        code, out, _ = await processes.ask("dead", "replay", letter["letter_id"], "--wait", 60)
        assert (code, f"letter {letter['letter_id']}: died again: " in out) == (1, True)
        assert "refused" in out
        assert (await letter_of(unlucky.order_id))["letter_id"] == letter["letter_id"]
    # When the cause is mended and it is replayed, it is an order, once
    code, out, _ = await processes.ask("dead", "replay", letter["letter_id"], "--wait", 60)
    assert (code, out) == (0, f"letter {letter['letter_id']}: replayed\n")
    assert await state_of(unlucky.order_id)
    assert (await processes.ask("dead", "replay", letter["letter_id"]))[0] == 1
    ledger = await assert_balanced(sale)
    assert (ledger.lines["orders pending"], ledger.on_dead_letters) == (2, [])


async def test_F6_a_discarded_letter_lets_another_buyer_in_and_its_own_again(
    processes, open_sale, ticket_for, assert_balanced, state_of, refusing, letter_of
):
    gateway = await processes.run("gateway")
    await processes.run("consumers")
    sale = await open_sale(stock=1)
    async with ClientSession(gateway.url) as http:

        async def press(buyer):
            return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

        async with refusing("unlucky"):
            unlucky = await press("unlucky")
            letter = await letter_of(unlucky.order_id)
        # When the operator gives it up, twice
        words = ("dead", "discard", letter["letter_id"], "--reason", "test")
        assert [(await processes.ask(*words))[0] for _ in range(2)] == [0, 1]
        # Then the order is cancelled, and the unit is on sale, once

        async def bought():
            answer = await press("lucky")
            return answer if answer.status == 202 else None

        lucky = await eventually(bought, "the unit is on sale again")
        assert await state_of(unlucky.order_id) == "cancelled"
        assert (await press("unlucky")).code == "sold_out"
        await eventually(lambda: state_of(lucky.order_id), "the order has a row")
        ledger = await assert_balanced(sale)
        assert ledger.lines["orders cancelled"] == 1
