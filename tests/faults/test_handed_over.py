"""What a gateway has accepted, on its way to a row: not missing, not dropped, not sold twice."""

from __future__ import annotations

from contextlib import asynccontextmanager

import aio_pika
import pytest
from aiohttp import ClientSession

from ops.buyers import grab
from seckill import keys, ledger, topology
from seckill.broker import Broker, Publisher
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
            return not await store.hexists(keys.holders(sale.sale_id), "unpaid")

        await eventually(unpaid_is_back, "the unpaid unit is back")
        # Then the grab is in the books as in flight, with its unit, and is its buyer's
        books = await ledger.verify(store, db, sale.sale_id)
        assert books.balanced, books.violations
        assert (books.in_flight, books.return_pending) == ([late.order_id], [])
        assert not books.quiet
        assert books.lines["redis stock"] == 2
        assert books.lines["redis corrections"] == 0
        again = await press("late")
        assert (again.status, again.order_id) == (200, late.order_id)
        proxy.cut()
        proxy.thaw()
    # And it becomes an order once the broker, which has not heard of it, is back
    await eventually(lambda: state_of(late.order_id), "the late order has a row")
    books = await assert_balanced(sale, wait_s=60)
    assert books.lines["orders rejected"] == 0


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


async def test_note_07_what_consumers_refuse_lies_dead_with_its_reason_and_its_unit_is_held(
    processes, open_sale, ticket_for, store, db, settings, assert_balanced, state_of, refusing
):
    gateway = await processes.run("gateway")
    await processes.run("consumers")
    sale = await open_sale(stock=2)
    async with (
        ClientSession(gateway.url) as http,
        await aio_pika.connect(settings.amqp_url) as connection,
        refusing("unlucky"),
    ):
        channel = await connection.channel()
        dead = await channel.get_queue(topology.dead(topology.ORDERS_PLACE), ensure=False)

        async def press(buyer):
            return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

        async def letter():
            message = await dead.get(fail=False, no_ack=True)
            return message if message and unlucky.order_id.encode() in message.body else None

        # Given a buyer who was told "queued", and whose order PostgreSQL then refuses
        unlucky = await press("unlucky")
        assert unlucky.status == 202
        # Then his message lies in the dead queue, whole and with the reason
        message = await eventually(letter, "the message lies in the dead queue")
        assert "refused" in message.headers["x-reason"]
        # And his unit is his, by name, however many others ask for it
        answers = [await press(buyer) for buyer in ("lucky", "late", "later", "unlucky")]
        assert [answer.code or answer.status for answer in answers] == [
            202,
            "sold_out",
            "sold_out",
            200,
        ]
        assert answers[-1].order_id == unlucky.order_id

        async def only_he_is_in_flight():
            books = await ledger.verify(store, db, sale.sale_id)
            assert books.balanced, books.violations
            return books.in_flight == [unlucky.order_id]

        await eventually(only_he_is_in_flight, "the books name him alone")
    # When the cause is mended and the message is sent again, it is an order
    broker = Broker(settings.amqp_url, "test-replay", timeout_s=15)
    async with Publisher.open(broker, timeout_s=15) as publisher:
        await publisher.publish(topology.ORDERS_PLACE, message.body)
    await eventually(lambda: state_of(unlucky.order_id), "the order has a row")
    books = await assert_balanced(sale)
    assert books.lines["orders pending"] == 2
