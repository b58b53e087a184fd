"""The ways of timing out: any of them alone, and all at once, gives each unit back once."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, suppress

import pytest

from config.settings import Settings
from consumers import main
from consumers.roles import key_expiry, sweep
from consumers.roles.expire_orders import ExpireOrders
from consumers.roles.key_expiry import KeyExpiry
from consumers.roles.sweep import Sweep
from consumers.runtime.poll_role import PollRole
from consumers.timers import PAUSE_S
from seckill import messages
from seckill.adapters import redis_keys, topology
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.errors import Unavailable
from seckill.order_ids import new_order_id
from seckill.orders import orders


@pytest.fixture
def send(publisher, queues):
    """Publish grabs of one sale as the gateway does."""

    async def publish(*placements):
        first = placements[0]
        grabs = [[p.order_id, p.buyer_id, p.quantity] for p in placements]
        body = messages.encode_place(first.sale_id, first.epoch, ["1-0"], grabs)
        await publisher.publish(ORDERS_PLACE, body)

    return publish


@pytest.fixture
async def listener(store, db):
    listener = KeyExpiry(store, db)
    yield listener
    await listener.close()


@pytest.fixture
def listening(running):
    """Run the role key_expiry as long as the block lasts."""
    return lambda listener: running(PollRole("key_expiry", listener.run_once, idle_s=0))


@pytest.fixture
def ways(queue_role, running, db, publisher, listener, monkeypatch):
    """The roles of each way of timing out."""
    monkeypatch.setattr(sweep, "GRACE_S", 0)  # so that all of them want the orders at once
    return {
        "delay_queue": lambda: queue_role(ORDERS_EXPIRE, ExpireOrders(db).handle),
        "key_expiry": lambda: PollRole("key_expiry", listener.run_once, idle_s=0),
        "sweep": lambda: PollRole("sweep", Sweep(db).run_once, idle_s=0.01),
    }


async def subscribed(store):
    """Tell whether somebody listens for keys that expire."""
    database = store.connection_pool.connection_kwargs["db"]
    ((_, listeners),) = await store.pubsub_numsub(redis_keys.expired_channel(database))
    return listeners == 1


ALL = ("delay_queue", "key_expiry", "sweep")


@pytest.mark.parametrize("chosen", [*((way,) for way in ALL), ALL], ids="+".join)
async def test_F6_F26_F22_each_unit_comes_back_once_by_any_way_and_by_all(
    open_sale,
    shop,
    send,
    store,
    queue_role,
    place_orders,
    running,
    ways,
    eventually,
    assert_balanced,
    chosen,
):
    sale = await open_sale(stock=40, payment_window_s=1)
    patient = await open_sale(stock=10, payment_window_s=900)
    grabs = await shop.grab(sale, *(f"b{n}" for n in range(30)))
    kept = await shop.grab(patient, "ann")
    handler = place_orders(*chosen)

    async with AsyncExitStack() as stack:
        for way in chosen:
            await stack.enter_async_context(running(ways[way]()))
        if "key_expiry" in chosen:
            await eventually(lambda: subscribed(store), "somebody listens")
        await stack.enter_async_context(running(queue_role(ORDERS_PLACE, handler.handle)))
        await send(*kept)
        await send(*grabs)

        async def all_ended():
            states = await shop.states(sale, grabs)
            return states == ["cancelled expired"] * 30

        await eventually(all_ended, "all are cancelled")

    assert await shop.states(patient, kept) == ["pending"]
    assert await shop.inventory(sale) == (40, 0, 0)
    await shop.return_all(sale)
    assert await shop.left(sale) == 40
    await assert_balanced(sale)


async def test_the_key_lives_as_long_as_the_window_and_is_of_placed_orders_only(
    open_sale, shop, store, place_orders, queues, send, eventually
):
    sale = await open_sale(stock=1, payment_window_s=700)
    won, lost = shop.wish(sale, "ann"), shop.wish(sale, "bob")
    await send(won, lost)

    await place_orders("key_expiry").handle(await queues.take(ORDERS_PLACE, 1))

    key = redis_keys.expiry(sale.sale_id, won.order_id)
    await eventually(lambda: store.exists(key), "the key is set")
    assert 0 < await store.pttl(key) <= 700_000
    assert not await store.exists(redis_keys.expiry(sale.sale_id, lost.order_id))
    assert await queues.dead(ORDERS_PLACE) == []


async def expire(store, sale, *placements):
    """Let the keys of these orders expire now."""
    for placement in placements:
        await store.set(redis_keys.expiry(sale.sale_id, placement.order_id), "", px=1)


async def test_F26_a_key_that_expires_early_leaves_the_order(
    open_sale, shop, store, listener, listening, eventually, assert_balanced
):
    """Clocks may run at different speeds; the sweep comes later."""
    sale = await open_sale()
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.let_expire(bob)
    async with listening(listener):
        await eventually(lambda: subscribed(store), "it listens")
        await expire(store, sale, ann)
        await expire(store, sale, bob)
        await eventually(lambda: shop.returns(sale), "bob's is cancelled")
    assert await shop.states(sale, [ann, bob]) == ["pending", "cancelled expired"]


@pytest.mark.parametrize("state", ["paying", "paid", "cancelled"])
async def test_F9_F16_the_key_of_an_order_that_is_not_pending_is_harmless(
    open_sale, shop, store, db, listener, listening, eventually, state
):
    sale = await open_sale()
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.let_expire(ann, bob)
    await db.execute("UPDATE orders SET state = $2 WHERE order_id = $1", ann.order_id, state)
    async with listening(listener):
        await eventually(lambda: subscribed(store), "it listens")
        await expire(store, sale, ann, bob)
        await eventually(lambda: shop.returns(sale), "bob's is cancelled")
    assert await shop.states(sale, [ann]) == [state]
    assert list(await shop.returns(sale)) == [bob.order_id]


async def test_other_keys_that_expire_are_nobodys_orders(
    open_sale, shop, store, listener, listening, eventually
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    async with listening(listener):
        await eventually(lambda: subscribed(store), "it listens")
        for name in ("other", b"\xff\xfe", redis_keys.expiry("x", "no-order"), "sk:{x}:proof:n"):
            await store.set(name, "", px=1)
        await store.set(redis_keys.expiry(sale.sale_id, new_order_id(1)), "", px=1)
        await expire(store, sale, ann)
        await eventually(lambda: shop.returns(sale), "ann's is cancelled")


async def test_F21_what_expires_while_nobody_listens_is_the_sweeps(
    open_sale, shop, store, db, listener, monkeypatch, eventually, assert_balanced
):
    """Pub/sub is fire and forget: an event is told once, to who is there."""
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await expire(store, sale, ann)

    async def gone():
        return not await store.exists(redis_keys.expiry(sale.sale_id, ann.order_id))

    await eventually(gone, "the key has expired")
    await listener.run_once()
    assert await shop.states(sale, [ann]) == ["pending"]

    assert (await Sweep(db).run_once()).done >= 1
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_it_listens_again_after_its_link_broke(
    open_sale, shop, store, listener, listening, eventually, caplog
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    async with listening(listener):
        await eventually(lambda: subscribed(store), "it listens")
        await store.client_kill_filter(_type="pubsub")

        async def heard_of_it():
            return any("key_expiry resumes" in record.message for record in caplog.records)

        await eventually(heard_of_it, "it has noticed")
        await eventually(lambda: subscribed(store), "it listens again")
        await expire(store, sale, ann)
        await eventually(lambda: shop.returns(sale), "ann's is cancelled")


async def test_without_a_sign_of_life_it_hangs_up(listener, store, monkeypatch):
    monkeypatch.setattr(key_expiry, "PING_S", 0.0)
    with pytest.raises(Unavailable, match="sign of life"):
        await listener.run_once()
    assert listener._pubsub is None


async def test_silence_is_asked_for_a_sign_of_life_and_redis_gives_one(
    listener, monkeypatch, eventually
):
    monkeypatch.setattr(key_expiry, "IDLE_S", 0.05)
    monkeypatch.setattr(key_expiry, "PING_S", 0.3)
    asked = False

    async def answered():
        nonlocal asked
        with suppress(Unavailable):  # on a machine that stalls
            await listener.run_once()
        before, asked = asked, listener._pinged
        return before and not asked and listener._pubsub is not None

    await eventually(answered, "a ping was answered")


async def test_F23_while_postgresql_is_away_what_was_heard_is_kept(
    open_sale, shop, store, listener, listening, eventually, monkeypatch
):
    real, failures = orders.release, [Unavailable(), Unavailable()]

    async def release(*args, **options):
        if failures:
            raise failures.pop()
        return await real(*args, **options)

    monkeypatch.setattr(orders, "release", release)
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    async with listening(listener):
        await eventually(lambda: subscribed(store), "it listens")
        await expire(store, sale, ann)
        await eventually(lambda: shop.returns(sale), "ann's is cancelled")
    assert failures == []


async def test_a_redis_that_announces_nothing_is_complained_of(listener, monkeypatch, caplog):
    async def settings(*_):
        return {"notify-keyspace-events": ""}

    monkeypatch.setattr(key_expiry, "redis_settings", settings)
    with caplog.at_level(logging.WARNING):
        await listener.run_once()
    assert any("notify-keyspace-events" in record.message for record in caplog.records)


async def test_orders_are_placed_though_redis_takes_no_timer(
    open_sale, shop, send, queues, place_orders, monkeypatch, caplog, eventually
):
    """And it is not tried with every batch: each try would hold the timers of the next one up."""
    sale = await open_sale(payment_window_s=701)
    handler = place_orders("delay_queue", "key_expiry")
    tries = []

    async def away(window_s, placed):
        tries.append(window_s)
        raise Unavailable

    monkeypatch.setitem(handler._timers._kinds, "key_expiry", away)
    for buyer in ("ann", "bob"):
        await send(shop.wish(sale, buyer))
        await handler.handle(await queues.take(ORDERS_PLACE, 1))
        await eventually(lambda: handler._timers._starting is None, "its timers are started")

    assert tries == [701]
    assert sorted((await shop.rows(sale)).values()) == [("pending", None)] * 2
    assert len(await queues.take(topology.timer(701), 2)) == 2, "the other way goes on"
    assert f"by key_expiry for {PAUSE_S:g} s" in caplog.text


def test_the_role_runs_by_itself_only_where_it_is_configured():
    assert "key_expiry" not in main.default_roles(Settings())
    whole = Settings(timeouts="key_expiry, delay_queue", provider_url="http://127.0.0.1:1")
    assert main.default_roles(whole) == main.ROLES
    assert set(main.ROLES) - set(main.default_roles(Settings(timeouts="key_expiry"))) == {
        "settle_payments"
    }
    for timeouts in ("", "key_expiry", "delay_queue"):
        assert {"sweep", "expire_orders"} <= set(main.default_roles(Settings(timeouts=timeouts)))
