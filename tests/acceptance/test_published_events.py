"""A listener hears what becomes of real orders, through the running processes."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager

import pytest

from seckill.payments import refunds
from tests.checkout import payer
from tests.processes import eventually

pytestmark = pytest.mark.usefixtures("consumers")
#: Longest wait for an event on a busy machine.
PATIENCE_S = 30


class Listener:
    """`seckill events`, as an operator runs it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def topics_of(self, order_id: str, last: str) -> list[str]:
        """Read the events of an order, up to a topic; return their topics."""
        topics: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while not topics or topics[-1] != last:
                event = json.loads(await self.process.stdout.readline())
                # Under "#" there are events of Sagas, too, and those of other tests.
                if order_id in [order["order_id"] for order in event.get("orders", [])]:
                    topics.append(event["topic"])
        return topics


@pytest.fixture
def listening(processes):
    """Run `seckill events` for as long as the block lasts; Ctrl-C ends it well."""

    @asynccontextmanager
    async def run(topic):
        process = await processes.begin("events", "--topic", topic)
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert b"listening" in await process.stderr.readline()
            yield Listener(process)
        finally:
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
        assert (process.returncode, err) == (0, b""), out

    return run


@pytest.fixture
def row_of(db):
    """Wait until an order is a row."""

    async def wait(order_id):
        async def row():
            return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", order_id)

        await eventually(row, "the order is placed")

    return wait


async def test_placed_paid_refunded(
    http, listening, open_sale, order_for, login_for, checkout, db, row_of
):
    buyer = payer()
    await checkout.give(buyer, 1999)
    sale = await open_sale()
    async with listening("order.*") as listener:
        order_id = await order_for(http, sale, buyer)
        await row_of(order_id)
        path = f"/v1/orders/{order_id}/payments"
        async with http.post(path, json={"method": "wallet"}, headers=login_for(buyer)) as paid:
            assert paid.status == 200
        await refunds.refund(db, order_id, actor="test", reason="damaged")
        assert await listener.topics_of(order_id, "order.refunded") == [
            "order.placed",
            "order.paid",
            "order.refunded",
        ]


async def test_placed_cancelled(http, listening, open_sale, order_for, login_for, row_of):
    sale = await open_sale()
    async with listening("#") as listener:
        order_id = await order_for(http, sale, "ann")
        await row_of(order_id)
        async with http.delete(f"/v1/orders/{order_id}", headers=login_for("ann")) as answer:
            assert answer.status == 200
        assert await listener.topics_of(order_id, "order.cancelled") == [
            "order.placed",
            "order.cancelled",
        ]


async def test_a_topic_that_cannot_be_is_named(processes):
    code, _, complaint = await processes.ask("events", "--topic", "order paid")
    assert code == 2
    assert "'order paid'" in complaint
    assert "Traceback" not in complaint
