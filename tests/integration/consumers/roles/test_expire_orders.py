"""expire_orders: what the timers name is cancelled if it is still unpaid, and only then."""

from __future__ import annotations

import pytest

from consumers.roles.expire_orders import ExpireOrders
from seckill import messages
from seckill.adapters.topology import ORDERS_EXPIRE
from seckill.errors import Unavailable
from seckill.order_ids import new_order_id
from seckill.orders import orders


@pytest.fixture
def handler(store, db):
    return ExpireOrders(store, db)


@pytest.fixture
def send(publisher, queues):
    """Publish an orders.expire message for these orders, or any other body."""

    async def publish(*placements, body=None):
        if body is None:
            body = messages.encode_expire([p.order_id for p in placements])
        await publisher.publish(ORDERS_EXPIRE, body)

    return publish


@pytest.fixture
def handle(handler, queues):
    async def call(count=1):
        await handler.handle(await queues.take(ORDERS_EXPIRE, count))

    return call


async def test_unpaid_orders_of_all_messages_are_cancelled(
    open_sale, shop, send, handle, assert_balanced
):
    one, other = await open_sale(), await open_sale()
    ann, bob = await shop.order(one, "ann", "bob")
    (cat,) = await shop.order(other, "cat")
    await shop.let_expire(ann, bob, cat)
    await send(ann, cat)
    await send(bob)

    await handle(2)

    assert await shop.states(one, [ann, bob]) == ["cancelled expired"] * 2
    assert await shop.states(other, [cat]) == ["cancelled expired"]
    for sale in (one, other):
        await shop.return_all(sale)
        await assert_balanced(sale)


async def test_F9_an_early_timer_cancels_nothing(open_sale, shop, send, handle):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await send(ann)

    await handle()

    assert await shop.states(sale, [ann]) == ["pending"]


async def test_F6_a_timer_that_comes_twice_cancels_once(
    open_sale, shop, send, handle, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    for _ in range(3):
        await send(ann)

    await handle(2)
    await shop.return_all(sale)
    await handle(1)

    assert await shop.returns(sale) == {}
    assert await shop.left(sale) == 10
    await assert_balanced(sale)


@pytest.mark.parametrize("state", ["paying", "paid", "cancelled"])
async def test_F16_the_timer_of_an_order_that_is_not_pending_is_harmless(
    open_sale, shop, send, handle, db, state
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await db.execute("UPDATE orders SET state = $2 WHERE order_id = $1", ann.order_id, state)
    await send(ann)

    await handle()

    assert await shop.states(sale, [ann]) == [state]
    assert await shop.returns(sale) == {}


async def test_unknown_orders_are_ignored(send, handle, queues):
    await send(body=messages.encode_expire([new_order_id(1)]))

    await handle()

    assert await queues.dead(ORDERS_EXPIRE) == []


UNREADABLE = {
    "empty": b"",
    "not MessagePack": b"hello, world",
    "another message": messages.encode_place("sale", 1, [], []),
    "no order id": messages.encode_expire(["x"]),
    "text that is not UTF-8": b"\x81\xa6orders\x91\xa1\xff",
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_F13_an_unreadable_timer_is_dead_and_the_others_count(
    open_sale, shop, send, handler, queue_role, running, eventually, queues, body
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await send(body=body)
    await send(ann)

    async def cancelled():
        return await shop.states(sale, [ann]) == ["cancelled expired"]

    async with running(queue_role(ORDERS_EXPIRE, handler.handle)):
        await eventually(cancelled, "the readable one counts")

    (dead,) = await queues.dead(ORDERS_EXPIRE)
    assert dead.body == body
    assert "BadMessage" in dead.headers["x-reason"]


@pytest.fixture
def unavailable_twice(monkeypatch):
    """PostgreSQL is unavailable for the first two releases."""
    real, failures = orders.release, [Unavailable(), Unavailable()]

    async def release(*args, **options):
        if failures:
            raise failures.pop()
        return await real(*args, **options)

    monkeypatch.setattr(orders, "release", release)


async def test_F23_while_postgresql_is_unavailable_timers_are_held_and_then_count(
    open_sale, shop, send, handler, queue_role, running, eventually, unavailable_twice, queues
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await send(ann)
    deliveries = []

    async def handle(batch):
        deliveries.extend(m.redelivered for m in batch)
        await handler.handle(batch)

    async with running(queue_role(ORDERS_EXPIRE, handle)):
        await eventually(lambda: shop.returns(sale), "cancelled")

    assert deliveries == [False] * 3
    assert await queues.dead(ORDERS_EXPIRE) == []


async def test_F23_an_unreadable_timer_is_dead_lettered_once_though_the_other_is_held(
    open_sale, shop, send, handler, queue_role, running, eventually, unavailable_twice, queues
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await send(body=b"hello")
    await send(ann)

    async with running(queue_role(ORDERS_EXPIRE, handler.handle)):
        await eventually(lambda: shop.returns(sale), "cancelled")

    assert len(await queues.dead(ORDERS_EXPIRE)) == 1
