"""The waiting line of a rate limit: one for all gateways, and never for units that are gone."""

from __future__ import annotations

import pytest

from seckill.adapters import redis_keys
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id
from seckill.sales import sales

HOUR_MS = 3_600_000


@pytest.fixture
def press(ticket_for):
    async def press(http, sale, buyer):
        """Grab; return the status, the code, and the Retry-After of a refusal."""
        async with http.post(
            f"/v1/sales/{sale.sale_id}/grabs",
            headers={"Seckill-Ticket": ticket_for(sale, buyer)},
            json={"quantity": 1},
        ) as response:
            code = (await response.json(content_type=None)).get("code")
            return response.status, code, int(response.headers.get("Retry-After", 0))

    return press


@pytest.fixture
def drain(each, press):
    """Empty the bucket by buyers who grab until one is refused; return how many won."""

    async def drain(sale):
        won = 0
        while (await press(each[won % 4], sale, f"won{won}"))[0] == 202:
            won += 1
        return won

    return drain


@pytest.fixture
def sell_elsewhere(stock):
    """Sell units as a gateway that the test does not talk to."""

    async def sell(sale, units):
        grabs = [Grab(new_order_id(sale.number), f"other{n}", 1) for n in range(units)]
        deadline_ms = await stock.now_ms() + HOUR_MS
        await stock.grab(sale.sale_id, grabs, deadline_ms=deadline_ms, outbox_max=1000)

    return sell


async def pass_time(store, sale, seconds):
    """Make what the bucket and the line remember so much older."""
    microseconds = int(seconds * 1e6)
    await store.hincrby(redis_keys.bucket(sale.sale_id, "try"), "at", -microseconds)
    line = redis_keys.line(sale.sale_id, "try")
    turns = await store.zrange(line, 0, -1, withscores=True)
    await store.zadd(line, {name: turn - microseconds for name, turn in turns})


async def test_F36_note_10_a_turn_is_the_same_at_every_gateway(
    each, open_sale, store, set_limit, drain, press
):
    sale = await open_sale(stock=1000)
    await set_limit(sale, rate=1, burst=5)
    await drain(sale)
    line = redis_keys.line(sale.sale_id, "try")
    status, _, wait_s = await press(each[0], sale, "patient")
    turn = await store.zscore(line, "patient")
    assert (status, bool(turn)) == (429, True)
    for n, http in enumerate(each):
        assert (await press(http, sale, f"stranger{n}"))[0] == 429
        status, _, again_s = await press(http, sale, "patient")
        assert status == 429
        assert again_s <= wait_s, "asking at another gateway costs nothing"
        assert await store.zscore(line, "patient") == turn, "and gains nothing"
    await pass_time(store, sale, wait_s)
    for n, http in enumerate(each):
        await press(http, sale, f"late{n}")  # whatever strangers do, wherever
    assert (await press(each[3], sale, "patient"))[0] == 202


async def test_F36_note_10_no_line_at_any_gateway_outgrows_the_units_left(
    each, open_sale, store, set_limit, drain, press
):
    sale = await open_sale(stock=15)
    await set_limit(sale, rate=1, burst=5)
    left = 15 - await drain(sale)
    waits = []
    for n in range(40):  # a gateway learns at its first refusal how many are left
        status, _, wait_s = await press(each[n % 4], sale, f"b{n}")
        if status == 429:
            waits.append(wait_s)
    assert await store.zcard(redis_keys.line(sale.sale_id, "try")) <= left
    assert 5 < max(waits) <= left + 1


@pytest.mark.parametrize("end", ["sold_out", "closed"])
async def test_F36_note_10_when_it_is_over_those_in_line_are_refused_at_once_at_every_gateway(
    each, open_sale, db, stock, store, set_limit, drain, press, sell_elsewhere, end
):
    sale = await open_sale(stock=50)
    await set_limit(sale, rate=1, burst=5)
    won = await drain(sale)
    for n in range(20):
        assert (await press(each[n % 4], sale, f"b{n}"))[0] == 429
    if end == "closed":
        await sales.close(db, stock, sale.sale_id)
    else:
        await sell_elsewhere(sale, 50 - won)
    for http in each:
        for buyer in ("b19", "b18", "stranger"):
            assert (await press(http, sale, buyer))[1] == end
    assert (await press(each[0], sale, "won0"))[0] == 200, "a buyer who has an order gets it"


async def test_F36_units_that_came_back_have_a_line_again_at_every_gateway(
    each, open_sale, store, set_limit, drain, press
):
    sale = await open_sale(stock=5)
    await set_limit(sale, rate=1, burst=6)
    await drain(sale)
    for http in each:
        assert (await press(http, sale, "late"))[1] == "sold_out"
    await store.incrby(redis_keys.stock(sale.sale_id), 20)
    await store.hset(redis_keys.bucket(sale.sale_id, "try"), "level", 0)
    for n, http in enumerate(each):
        assert (await press(http, sale, f"b{n}"))[0] == 429
        assert await store.zscore(redis_keys.line(sale.sale_id, "try"), f"b{n}"), "a turn is kept"
