"""Sales filled with holders for load runs: as if they had been sold, and as before afterwards."""

from __future__ import annotations

import pytest

from loadtest.bench import holders
from seckill import order_ids
from seckill.adapters import redis_keys
from seckill.consistency.snapshots import read_redis
from seckill.inventory.reservations import Grab, Verdict
from seckill.order_ids import new_order_id, sale_number_of


@pytest.fixture
def grab_for(stock):
    async def grab(sale, *buyers):
        grabs = [Grab(new_order_id(sale.number), buyer, 1) for buyer in buyers]
        deadline_ms = await stock.now_ms() + 10_000
        return await stock.grab(sale.sale_id, grabs, deadline_ms=deadline_ms, outbox_max=100)

    return grab


async def test_a_filled_sale_is_as_one_that_has_sold(store, open_sale, grab_for, monkeypatch):
    monkeypatch.setattr(holders, "FIELDS", 100)  # so that there are several calls and trips
    monkeypatch.setattr(holders, "CALLS", 2)
    sale = await open_sale(stock=1_000)
    counts = []
    await holders.fill(store, sale, 950, counts.append)
    assert counts == [200, 200, 200, 200, 150]

    snapshot = await read_redis(store, sale.sale_id)
    assert (snapshot.stock, len(snapshot.holders)) == (50, 950)
    assert (
        snapshot.stock + sum(h.quantity for h in snapshot.holders.values())
        == snapshot.total
        == 1_000
    )
    ids = {holding.order_id for holding in snapshot.holders.values()}
    assert len(ids) == 950
    assert all(order_ids.PATTERN.match(order_id) for order_id in ids)
    assert {sale_number_of(order_id) for order_id in ids} == {sale.number}
    # The script takes them for holders, and counts their units.
    reply = await grab_for(sale, "h0", "h949", *(f"b{n}" for n in range(51)))
    assert reply.verdicts == [Verdict.DUPLICATE] * 2 + [Verdict.ACCEPTED] * 50 + [Verdict.SOLD_OUT]
    assert set(reply.known_ids) <= ids


async def test_only_those_who_grabbed_in_turn_are_taken_out(store, open_sale, grab_for):
    sales = [await open_sale(stock=100) for _ in range(3)]
    for place, sale in enumerate(sales):
        await holders.fill(store, sale, 40)
        await grab_for(sale, *(f"b{n}" for n in range(place, 20, 3)))
    # Some of the last may not have got through.
    await holders.take_out(store, sales, 30)
    for sale in sales:
        snapshot = await read_redis(store, sale.sale_id)
        assert (snapshot.stock, set(snapshot.holders)) == (60, {f"h{n}" for n in range(40)})
    await holders.take_out_all(store, sales[0])
    assert (await read_redis(store, sales[0].sale_id)).stock == 100
    assert not await store.exists(redis_keys.holders(sales[0].sale_id))


async def test_redis_is_as_durable_after_quick_filling_as_before(store):
    async def terms():
        names = ("appendfsync", "auto-aof-rewrite-percentage")
        return [(await store.config_get(name))[name] for name in names]

    before = await terms()
    assert before[0] == "always"
    async with holders.quick_filling(store):
        assert await terms() == ["no", "0"]
    assert await terms() == before
    with pytest.raises(ZeroDivisionError):
        async with holders.quick_filling(store):
            _ = 1 / 0
    assert await terms() == before
    log = await store.info("persistence")
    assert not log["aof_rewrite_in_progress"]
