"""key_expiry: an order whose key has expired is cancelled, if it is still unpaid and overdue."""

from __future__ import annotations

import logging
import time

import pytest

from consumers.roles import key_expiry
from consumers.roles.sweep import Sweep
from consumers.runtime.poll_role import PollRole
from seckill.adapters import redis_keys
from seckill.errors import Unavailable
from seckill.order_ids import new_order_id
from seckill.orders import orders


@pytest.fixture
def listening(running):
    """Run the role key_expiry as long as the block lasts."""
    return lambda listener: running(PollRole("key_expiry", listener.run_once, idle_s=0))


async def expire(store, sale, *placements):
    """Let the keys of these orders expire now."""
    for placement in placements:
        await store.set(redis_keys.expiry(sale.sale_id, placement.order_id), "", px=1)


async def test_F26_a_key_that_expires_early_leaves_the_order(
    open_sale, shop, store, listener, listening, subscribed, eventually
):
    """Clocks may run at different speeds; the sweep comes later."""
    sale = await open_sale()
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.let_expire(bob)
    async with listening(listener):
        await eventually(subscribed, "the role listens")
        await expire(store, sale, ann)
        await expire(store, sale, bob)
        await eventually(lambda: shop.returns(sale), "bob's is cancelled")
    assert await shop.states(sale, [ann, bob]) == ["pending", "cancelled expired"]


@pytest.mark.parametrize("state", ["paying", "paid", "cancelled"])
async def test_F9_F16_the_key_of_an_order_that_is_not_pending_is_harmless(
    open_sale, shop, store, db, listener, listening, subscribed, eventually, state
):
    sale = await open_sale()
    ann, bob = await shop.order(sale, "ann", "bob")
    await shop.let_expire(ann, bob)
    await db.execute("UPDATE orders SET state = $2 WHERE order_id = $1", ann.order_id, state)
    async with listening(listener):
        await eventually(subscribed, "the role listens")
        await expire(store, sale, ann, bob)
        await eventually(lambda: shop.returns(sale), "bob's is cancelled")
    assert await shop.states(sale, [ann]) == [state]
    assert list(await shop.returns(sale)) == [bob.order_id]


async def test_other_keys_that_expire_are_no_orders(
    open_sale, shop, store, listener, listening, subscribed, eventually
):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    async with listening(listener):
        await eventually(subscribed, "the role listens")
        for name in ("other", b"\xff\xfe", redis_keys.expiry("x", "no-order"), "sk:{x}:proof:n"):
            await store.set(name, "", px=1)
        await store.set(redis_keys.expiry(sale.sale_id, new_order_id(1)), "", px=1)
        await expire(store, sale, ann)
        await eventually(lambda: shop.returns(sale), "ann's is cancelled")


async def test_F21_what_expires_while_no_role_listens_is_found_by_the_sweep(
    open_sale, shop, store, db, listener, eventually, assert_balanced
):
    """Redis announces each expired key once, to the clients that listen at that moment."""
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    await expire(store, sale, ann)

    async def gone():
        return not await store.exists(redis_keys.expiry(sale.sale_id, ann.order_id))

    await eventually(gone, "the key has expired")
    await listener.run_once()
    assert await shop.states(sale, [ann]) == ["pending"]

    assert (await Sweep(store, db).run_once()).done >= 1
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_the_role_listens_again_after_its_link_broke(
    open_sale, shop, store, listener, listening, subscribed, eventually, caplog
):
    caplog.set_level("DEBUG", "consumers.runtime.role")
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await shop.let_expire(ann)
    async with listening(listener):
        await eventually(subscribed, "the role listens")
        await store.client_kill_filter(_type="pubsub")

        async def has_resumed():
            return any("key_expiry resumes" in record.message for record in caplog.records)

        await eventually(has_resumed, "the role has noticed")
        await eventually(subscribed, "the role listens again")
        await expire(store, sale, ann)
        await eventually(lambda: shop.returns(sale), "ann's is cancelled")


async def test_without_a_sign_of_life_the_role_closes_its_link(
    listener, subscribed, eventually, monkeypatch
):
    await listener.run_once()
    assert await subscribed()
    monkeypatch.setattr(key_expiry, "PING_S", 0.0)
    with pytest.raises(Unavailable, match="sign of life"):
        await listener.run_once()

    async def unsubscribed():
        return not await subscribed()

    await eventually(unsubscribed, "the link is closed")


async def test_a_silent_redis_answers_a_ping(listener, monkeypatch, eventually):
    """Without the answer the role would give up the link after twice PING_S."""
    monkeypatch.setattr(key_expiry, "IDLE_S", 0.05)
    monkeypatch.setattr(key_expiry, "PING_S", 0.3)

    async def outlived_the_limit():
        until = time.monotonic() + 3 * key_expiry.PING_S
        try:
            while time.monotonic() < until:
                await listener.run_once()
        except Unavailable:  # on a machine that stalls
            return False
        return True

    await eventually(outlived_the_limit, "the link lasted longer than twice PING_S")


async def test_F23_while_postgresql_is_unavailable_the_collected_orders_are_kept(
    open_sale, shop, store, listener, listening, subscribed, eventually, monkeypatch
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
        await eventually(subscribed, "the role listens")
        await expire(store, sale, ann)
        await eventually(lambda: shop.returns(sale), "ann's is cancelled")
    assert failures == []


async def test_a_redis_that_announces_no_expired_keys_is_logged(listener, monkeypatch, caplog):
    async def settings(*_):
        return {"notify-keyspace-events": ""}

    monkeypatch.setattr(key_expiry, "redis_settings", settings)
    with caplog.at_level(logging.WARNING):
        await listener.run_once()
    assert any("notify-keyspace-events" in record.message for record in caplog.records)
