"""place_orders: each placed order has its timers, and no other order has one."""

from __future__ import annotations

import logging

import pytest

from consumers.roles.expire_orders import ExpireOrders
from consumers.timers import PAUSE_S
from seckill import messages
from seckill.adapters import redis_keys, topology
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.errors import Unavailable
from seckill.sales.directory import SaleDirectory


@pytest.fixture
def timers(queues, eventually):
    """Take a number of timers of a window, as sets of order ids; there must be no more of them."""

    async def take(window_s, count=1):
        await eventually(lambda: queues.exists(topology.timer(window_s)), "the first timer")

        # A queue exists a moment before it can be read; a read in that moment is an error.
        async def all_there():
            return await queues.size(topology.timer(window_s)) >= count

        await eventually(all_there, f"{count} timers of {window_s} s")
        taken = await queues.take(topology.timer(window_s), count)
        assert await queues.take_all(topology.timer(window_s)) == []
        return [set(messages.decode_expire(m.body)) for m in taken]

    return take


async def test_timers_are_one_a_window_and_name_placed_orders_only(
    open_sale, shop, send_grabs, handle, timers
):
    short = await open_sale(stock=2, payment_window_s=801)
    long = await open_sale(payment_window_s=802)
    of_short = [shop.wish(short, name) for name in ("ann", "bob", "cat")]  # one too many
    of_long = [shop.wish(long, name) for name in ("ann", "bob")]
    await send_grabs(*of_short)
    await send_grabs(*of_long)

    await handle(2)

    assert await timers(801) == [{p.order_id for p in of_short[:2]}]
    assert await timers(802) == [{p.order_id for p in of_long}]


async def test_a_duplicate_starts_no_timer(open_sale, shop, send_grabs, handle, timers):
    sale = await open_sale(payment_window_s=803)
    (ann,) = await shop.order(sale, "ann")
    bob = shop.wish(sale, "bob")
    await send_grabs(ann, bob)

    await handle()

    assert await timers(803) == [{bob.order_id}]


async def test_a_sale_newer_than_the_directory_has_its_timer(
    open_sale, shop, send_grabs, place_orders, queues, timers, db
):
    directory = SaleDirectory(db)
    await directory.recent()
    sale = await open_sale(payment_window_s=804)
    ann = shop.wish(sale, "ann")
    await send_grabs(ann)

    handler = place_orders("delay_queue", sales=directory)
    await handler.handle(await queues.take(ORDERS_PLACE, 1))

    assert await timers(804) == [{ann.order_id}]


async def test_the_key_lives_as_long_as_the_window_and_is_of_placed_orders_only(
    open_sale, shop, store, place_orders, queues, send_grabs, eventually
):
    sale = await open_sale(stock=1, payment_window_s=700)
    won, lost = shop.wish(sale, "ann"), shop.wish(sale, "bob")
    await send_grabs(won, lost)

    await place_orders("key_expiry").handle(await queues.take(ORDERS_PLACE, 1))

    key = redis_keys.expiry(sale.sale_id, won.order_id)
    await eventually(lambda: store.exists(key), "the key is set")
    assert 0 < await store.pttl(key) <= 700_000
    assert not await store.exists(redis_keys.expiry(sale.sale_id, lost.order_id))
    assert await queues.dead(ORDERS_PLACE) == []


async def test_orders_are_placed_though_the_broker_takes_no_timer(
    open_sale, shop, send_grabs, handle, publisher, monkeypatch, dead_entries
):
    """The sweep finds them."""
    sale = await open_sale()
    ann = shop.wish(sale, "ann")

    async def fail(*_):
        raise Unavailable

    await send_grabs(ann)
    monkeypatch.setattr(publisher, "publish_timer", fail)
    await handle()

    assert await shop.states(sale, [ann]) == ["pending"]
    assert await dead_entries() == []


async def test_orders_are_placed_though_redis_takes_no_timer(
    open_sale, shop, send_grabs, queues, place_orders, timers, caplog
):
    """Redis is not tried with every batch: each attempt would hold up the next timers."""
    caplog.set_level(logging.DEBUG, "consumers.timers")
    sale = await open_sale(payment_window_s=701)
    attempts = []

    async def fail(window_s, placed):
        attempts.append(window_s)
        raise Unavailable

    # Redis comes first: when the timer is in its queue, Redis has been tried or left alone.
    handler = place_orders("delay_queue", key_expiry=fail)
    for buyer in ("ann", "bob"):
        wish = shop.wish(sale, buyer)
        await send_grabs(wish)
        await handler.handle(await queues.take(ORDERS_PLACE, 1))
        assert await timers(701) == [{wish.order_id}], "the other kind of timer is started"

    assert attempts == [701]
    assert sorted((await shop.rows(sale)).values()) == [("pending", None)] * 2
    assert f"by key_expiry for {PAUSE_S:g} s" in caplog.text


async def test_F21_unpaid_orders_end_with_their_window(
    open_sale,
    shop,
    send_grabs,
    handler,
    queue_role,
    running,
    eventually,
    store,
    db,
    assert_balanced,
):
    """Also those of a short window placed behind a long one."""
    patient = await open_sale(payment_window_s=900)
    sale = await open_sale(payment_window_s=1)
    kept = await shop.grab(patient, "ann")
    grabs = await shop.grab(sale, "ann", "bob")
    await send_grabs(*kept)
    await send_grabs(*grabs)

    expire = ExpireOrders(store, db)
    async with (
        running(queue_role(ORDERS_PLACE, handler.handle)),
        running(queue_role(ORDERS_EXPIRE, expire.handle)),
    ):
        await eventually(lambda: shop.returns(sale), "cancelled by the timer")

    assert await shop.states(sale, grabs) == ["cancelled expired"] * 2
    assert await shop.states(patient, kept) == ["pending"]
    await shop.return_all(sale)
    assert await shop.left(sale) == 10
    await assert_balanced(sale)
