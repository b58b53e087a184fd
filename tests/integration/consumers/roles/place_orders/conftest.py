"""What the tests of place_orders share: its handler, its messages, and what it left behind."""

from __future__ import annotations

import msgspec
import pytest

from seckill import messages
from seckill.adapters.topology import ORDERS_PLACE
from seckill.orders import orders


@pytest.fixture
def handler(place_orders):
    return place_orders("delay_queue")


@pytest.fixture
def handle(handler, queues):
    """Take so many messages and handle them as one batch; they are acknowledged already."""

    async def call(count=1):
        await handler.handle(await queues.take(ORDERS_PLACE, count))

    return call


@pytest.fixture
def send_body(publisher, queues):
    """Publish any bytes to orders.place."""

    async def send(body):
        await publisher.publish(ORDERS_PLACE, body)

    return send


@pytest.fixture
def send_multi_sale(send_body):
    """Send placements, each in a part of its own, and other parts as one multi-sale message."""

    async def send(*placements, others=()):
        parts = [
            messages.encode_place(p.sale_id, p.epoch, [], [[p.order_id, p.buyer_id, p.quantity]])
            for p in placements
        ]
        await send_body(messages.encode_multi_sale([*parts, *others]))

    return send


@pytest.fixture
def dead_entries(queues):
    """Take the messages of the dead queue as (entries, reason)."""

    async def take():
        return [
            (msgspec.msgpack.decode(m.body)["grabs"], m.headers["x-reason"])
            for m in await queues.dead(ORDERS_PLACE)
        ]

    return take


@pytest.fixture
def calls(monkeypatch):
    """The order ids of each call of orders.place; the errors in `fail` are raised first."""
    real = orders.place

    async def place(db, placements):
        place.seen.append([p.order_id for p in placements])
        if place.fail:
            raise place.fail.pop(0)
        return await real(db, placements)

    place.fail, place.seen = [], []
    monkeypatch.setattr(orders, "place", place)
    return place


@pytest.fixture
def assert_all_acknowledged(queue_role, running, eventually, send_grabs):
    """A new consumer gets the marker, and no message that was there before."""

    async def check(marker):
        delivered = []

        async def note(batch):
            delivered.extend(messages.decode_place(m.body).grabs[0].order_id for m in batch)

        await send_grabs(marker)
        async with running(queue_role(ORDERS_PLACE, note)):
            await eventually(lambda: marker.order_id in delivered, "marker delivered")
        assert delivered == [marker.order_id]

    return check
