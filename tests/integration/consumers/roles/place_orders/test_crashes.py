"""place_orders: consumers that die, and acknowledgements that are lost."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from seckill import messages
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_PLACE
from seckill.orders import orders
from tests.transactions import Killed

#: More starts of a consumer than the delivery limit of RabbitMQ allows for one message.
RESTARTS = topology.DELIVERY_LIMIT + 5


@pytest.mark.parametrize("in_one_message", [True, False])
@pytest.mark.parametrize("poison_first", [True, False])
async def test_F23_a_message_that_kills_its_consumer_spares_its_neighbours(
    open_sale,
    shop,
    send_grabs,
    send_multi_sale,
    handler,
    queue_role,
    running,
    queues,
    eventually,
    monkeypatch,
    poison_first,
    in_one_message,
):
    """The consumer starts again and again, until the broker dead-letters this message alone."""
    sale = await open_sale()
    good, poison = shop.wish(sale, "ann"), shop.wish(sale, "eve")
    real = orders.place

    async def place(db, placements):
        if poison.order_id in {placement.order_id for placement in placements}:
            raise Killed
        return await real(db, placements)

    monkeypatch.setattr(orders, "place", place)

    def dead():
        return queues.size(topology.dead(ORDERS_PLACE))

    async def has_ended(role):
        return role.done() or await dead()

    async def settled():
        return await shop.rows(sale) or await dead() > 1

    both = (poison, good) if poison_first else (good, poison)
    if in_one_message:
        await send_multi_sale(*both)
    else:
        for placement in both:
            await send_grabs(placement)
    for _ in range(RESTARTS):
        stop = asyncio.Event()
        role = asyncio.create_task(queue_role(ORDERS_PLACE, handler.handle).run(stop))
        await eventually(partial(has_ended, role), "the consumer has died, or the message is dead")
        stop.set()
        await asyncio.gather(role, return_exceptions=True)
        if await dead():
            break
    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(settled, "the neighbour is placed, or dead as well")

    assert await shop.states(sale, [good]) == ["pending"]
    dead_grabs = [messages.decode_place(m.body).grabs for m in await queues.dead(ORDERS_PLACE)]
    assert [grab.order_id for grabs in dead_grabs for grab in grabs] == [poison.order_id]


async def test_F23_a_message_delivered_for_the_third_time_is_placed_alone(
    open_sale, shop, send_grabs, handler, queues, calls, queue_role, running, eventually
):
    sale = await open_sale()
    suspect, *others = [shop.wish(sale, name) for name in ("ann", "bob", "cat")]
    await send_grabs(suspect)
    for _ in range(2):  # it has killed two consumers
        (message,) = await queues.take(ORDERS_PLACE, 1, no_ack=False)
        await message.nack(requeue=True)
    for other in others:
        await send_grabs(other)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: sum(map(len, calls.seen)) == 3, "all placed")

    assert [suspect.order_id] in calls.seen
    assert await shop.states(sale, [suspect, *others]) == ["pending"] * 3


@pytest.mark.parametrize("committed", [False, True], ids=["before commit", "after commit"])
async def test_F13_a_consumer_that_dies_has_its_message_delivered_again(
    open_sale,
    shop,
    send_grabs,
    handler,
    queue_role,
    running,
    eventually,
    queues,
    assert_balanced,
    committed,
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    redelivered = []

    async def is_killed(batch):
        if committed:
            await handler.handle(batch)
        raise Killed

    async def survives(batch):
        await handler.handle(batch)
        redelivered.extend(m.redelivered for m in batch)

    await send_grabs(*grabs)
    with pytest.raises(Killed):
        await queue_role(ORDERS_PLACE, is_killed).run(asyncio.Event())
    async with running(queue_role(ORDERS_PLACE, survives)):
        await eventually(lambda: redelivered, "delivered again")

    assert redelivered == [True]
    assert await shop.states(sale, grabs) == ["pending"] * 2
    assert await queues.dead(ORDERS_PLACE) == []
    await assert_balanced(sale)


async def test_F20_a_message_whose_ack_was_lost_is_dropped_as_a_duplicate(
    open_sale,
    shop,
    send_grabs,
    handler,
    queue_role,
    running,
    eventually,
    queues,
    assert_balanced,
    assert_all_acknowledged,
):
    """The broker closes the channel between commit and ack; the role recovers by itself."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    redelivered = []

    async def handle(batch):
        await handler.handle(batch)
        redelivered.extend(m.redelivered for m in batch)
        if len(redelivered) == 1:
            channel = batch[0].channel
            await channel.basic_ack(delivery_tag=10**6)
            await eventually(lambda: channel.is_closed, "channel closed by the broker")

    await send_grabs(*grabs)
    async with running(queue_role(ORDERS_PLACE, handle)):
        await eventually(lambda: len(redelivered) == 2, "delivered again")

    assert redelivered == [False, True]
    assert await queues.dead(ORDERS_PLACE) == []
    await assert_balanced(sale)
    await assert_all_acknowledged(shop.wish(sale, "cat"))
