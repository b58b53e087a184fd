"""F14: whatever goes wrong for one buyer, no other buyer is answered that the sale is over."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest
from aiohttp import ClientSession

from gateway.grabs.publisher import BatchedPublisher, Breaker, GrabPublisher
from gateway.grabs.reservations import RedisClock, SaleReservations
from ops.buyers import grab
from seckill.adapters import redis as redis_client
from seckill.adapters import redis_keys
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.clock import monotonic_ms
from seckill.errors import Unavailable
from seckill.inventory.reservations import Stock, Verdict
from seckill.micro_batcher import FutureWaiter
from seckill.sales.archived import ArchivedSales
from tests.processes import eventually, limits_profile

TIMEOUT_S = 0.3


async def grab_of(reservations, buyer_id, quantity):
    """Reserve for one buyer, and return the result."""
    result = asyncio.get_running_loop().create_future()
    reservations.put(FutureWaiter(reservations.new_grab(buyer_id, quantity), result))
    return await result


@pytest.fixture
async def make_reservations(redis_proxy, amqp_proxy, db):
    """Make a sale's reservations on links that a test may break; they know of units for sale."""
    async with AsyncExitStack() as stack:

        async def make(sale, *, outbox_max):
            redis = redis_client.connect(
                redis_proxy[1], timeout_s=TIMEOUT_S, kind=redis_client.PipeliningRedis
            )
            stack.push_async_callback(redis.aclose)
            broker = Broker(amqp_proxy[1], "test-grabs", timeout_s=15)
            publisher = await stack.enter_async_context(Publisher.open(broker, timeout_s=TIMEOUT_S))
            batched = BatchedPublisher(publisher, timeout_s=TIMEOUT_S)
            stock, clock, breaker = Stock(redis), RedisClock(), Breaker()
            clock.observe(await stock.now_ms(), asked_ms=monotonic_ms())
            reservations = SaleReservations(
                sale,
                stock,
                clock,
                lambda sale_id, on_confirmed: GrabPublisher(
                    sale_id, batched, breaker, on_confirmed
                ),
                ArchivedSales(db).holdings,
                batch_max=512,
                calls_max=2,
                spacing_s=0,
                call_timeout_s=TIMEOUT_S,
                outbox_max=outbox_max,
            )
            stack.push_async_callback(reservations.drain)
            assert (await grab_of(reservations, "warm", 1)).verdict is Verdict.ACCEPTED
            await reservations.find_holding("anyone")
            return reservations

        yield make


@pytest.fixture
def trouble(redis_proxy, amqp_proxy, services, store):
    """Ways to have a buyer refused, each for a reason that is not the end of the sale."""
    (redis, _), (amqp, _) = redis_proxy, amqp_proxy

    async def too_many_for_one(reservations, sale):
        return await grab_of(reservations, "unlucky", 4)

    async def more_than_are_left(reservations, sale):
        return await grab_of(reservations, "unlucky", 3)

    async def reply_lost(reservations, sale):
        redis.lose_replies = True
        try:
            return await grab_of(reservations, "unlucky", 1)
        finally:
            redis.lose_replies = False

    async def redis_frozen(reservations, sale):
        services.pause("redis")
        try:
            return await grab_of(reservations, "unlucky", 1)
        finally:
            services.resume("redis")

    async def outbox_full(reservations, sale):
        await reservations.drain()
        amqp.freeze()
        try:
            unconfirmed = await grab_of(reservations, "patient", 1)
            assert unconfirmed.verdict is Verdict.ACCEPTED
            return await grab_of(reservations, "unlucky", 1)
        finally:
            amqp.thaw()
            await store.xtrim(redis_keys.outbox(sale.sale_id), maxlen=0)  # the relay has sent it

    ways = (too_many_for_one, more_than_are_left, reply_lost, redis_frozen, outbox_full)
    return {way.__name__: way for way in ways}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("too_many_for_one", Verdict.QUANTITY),
        ("more_than_are_left", Verdict.SOLD_OUT),
        ("reply_lost", None),
        ("redis_frozen", None),
        ("outbox_full", Verdict.OUTBOX_FULL),
    ],
)
async def test_F14_the_latch_of_a_sale_stays_open(
    make_reservations, open_sale, trouble, name, expected
):
    sale = await open_sale(stock=3, per_order_max=3)
    reservations = await make_reservations(sale, outbox_max=1)
    verdict = None  # not known: Unavailable
    with suppress(Unavailable):
        verdict = (await trouble[name](reservations, sale)).verdict
    assert verdict is expected
    assert reservations.selling

    async def another_is_served():
        with suppress(Unavailable):
            return (await grab_of(reservations, "another", 1)).verdict in (
                Verdict.ACCEPTED,
                Verdict.DUPLICATE,
            )

    await eventually(another_is_served, "another buyer is served")
    assert reservations.selling
    while (await grab_of(reservations, f"b{reservations.left}", 1)).verdict is not Verdict.SOLD_OUT:
        assert reservations.selling
    assert not reservations.selling, "and the end closes it"


async def test_F14_buyers_in_trouble_at_a_gateway_end_nothing_for_the_others(
    processes, open_sale, ticket_for, redis_proxy, amqp_proxy, assert_balanced
):
    (redis, redis_url), (amqp, amqp_url) = redis_proxy, amqp_proxy
    gateway = await processes.run(
        "gateway",
        SECKILL_REDIS_URL=redis_url,
        SECKILL_AMQP_URL=amqp_url,
        SECKILL_OUTBOX_MAX="3",
        **limits_profile(processes.home),
    )
    await processes.run("consumers")
    sale = await open_sale(stock=12, per_order_max=2)
    async with ClientSession(gateway.url) as http:

        async def press(buyer, quantity=1):
            ticket = ticket_for(sale, buyer)
            answer = await grab(http, sale.sale_id, buyer, ticket, quantity=quantity)
            return answer.code or answer.status

        async def is_taken(buyer):
            return await press(buyer) in (200, 202)

        assert await press("greedy", 3) == "bad_request"
        assert await press("b0") == 202
        redis.lose_replies = True
        assert await press("b1") == "unavailable"
        redis.lose_replies = False
        assert await press("b2") == 202
        amqp.freeze()  # a publish that is not confirmed, and in the end an outbox that is full
        answered, buyers = 202, iter(range(3, 20))
        while answered == 202:
            answered = await press(f"b{(last := next(buyers))}")
        assert answered == "overloaded"
        amqp.thaw()
        for n in range(12):  # whoever was in trouble, and the others
            await eventually(partial(is_taken, f"b{n}"), f"b{n} has a unit")
        assert await press("late") == "sold_out"
    assert 3 < last < 12
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 12
