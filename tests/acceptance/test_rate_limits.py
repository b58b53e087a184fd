"""Rate limits over HTTP: four gateways, one bound; refusals cost nothing and can be obeyed."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from aiohttp import ClientSession

from config.limits import Tier
from ops.processes.ports import free_port
from seckill.adapters import redis_keys
from seckill.order_ids import new_order_id
from seckill.sales.token_buckets import TokenBuckets
from tests.processes import Process, eventually, limits_profile


@pytest.fixture(scope="module")
async def four(processes) -> Process:
    """Four gateways behind one address."""
    port = free_port()
    gateways = [await processes.run("gateway", port=port) for _ in range(4)]
    return gateways[0]


async def press(http, sale, ticket):
    started = time.monotonic()
    async with http.post(
        f"/v1/sales/{sale.sale_id}/grabs", headers={"Seckill-Ticket": ticket}, json={"quantity": 1}
    ) as response:
        body = await response.json(content_type=None)
        return response, body, (started, time.monotonic())


async def test_note_08_four_gateways_keep_one_bound_and_obeyed_refusals_are_admitted(
    four, open_sale, ticket_for, set_limit, store
):
    sale = await open_sale(stock=10_000)
    rate, burst = (limit := await set_limit(sale, rate=40)).rate, limit.burst
    admitted, pressed = [], iter(range(1_200))
    obedient = 0

    async def buyer(http):
        nonlocal obedient
        for n in pressed:
            ticket = ticket_for(sale, f"b{n}")
            response, body, times = await press(http, sale, ticket)
            if response.status == 429:
                assert body["code"] == "rate_limited"
                if n % 20 == 0:
                    await asyncio.sleep(int(response.headers["Retry-After"]))
                    response, body, times = await press(http, sale, ticket)
                    assert response.status == 202, (body, dict(response.headers))
                    obedient += 1
                else:
                    continue
            assert response.status == 202, body
            admitted.append(times)

    async with ClientSession(four.url) as http:
        await asyncio.gather(*(buyer(http) for _ in range(60)))
    assert obedient >= 20
    admitted.sort()
    for i, (first, _) in enumerate(admitted):
        last = max(ended for _, ended in admitted[i:])
        within = [ended for _, ended in admitted[i:] if ended <= last]
        assert len(within) <= rate * (last - first) + burst
    # A refusal leaves nothing behind: who was never admitted holds nothing.
    assert await store.hlen(redis_keys.holders(sale.sale_id)) == len(admitted)
    assert int(await store.get(redis_keys.stock(sale.sale_id))) == 10_000 - len(admitted)


async def test_a_429_says_when_and_why(four, open_sale, ticket_for, set_limit):
    sale = await open_sale()
    await set_limit(sale, rate=1, burst=3)
    async with ClientSession(four.url) as http:
        for n in range(4):
            response, body, _ = await press(http, sale, ticket_for(sale, f"b{n}"))
    assert (response.status, body["code"]) == (429, "rate_limited")
    assert response.headers["Retry-After"] == "1"
    assert response.headers["RateLimit-Policy"] == '"try";q=3;w=3'
    assert re.fullmatch(r'"try";r=0;t=1', response.headers["RateLimit"])


async def test_an_operator_changes_a_rate_while_the_sale_runs(
    four, open_sale, ticket_for, set_limit
):
    sale = await open_sale(stock=1000)
    await set_limit(sale, rate=1, burst=1)
    names = iter(range(10_000))

    async def admitted(http, count):
        tickets = [ticket_for(sale, f"b{next(names)}") for _ in range(count)]
        answers = await asyncio.gather(*(press(http, sale, ticket) for ticket in tickets))
        return [response.status for response, _, _ in answers].count(202)

    async with ClientSession(four.url) as http:
        assert await admitted(http, 20) <= 3
        await set_limit(sale, rate=1000)

        async def all_at_once():
            return await admitted(http, 20) == 20

        await eventually(all_at_once, "the new rate is in force")
        await set_limit(sale, rate=1, burst=1)
        assert await admitted(http, 60) < 60


async def test_F36_buyers_of_a_sold_out_sale_are_refused_and_not_asked_to_wait(
    four, open_sale, ticket_for, set_limit
):
    """No buyer waits for a turn when all units are gone, and no line outgrows the units."""
    sale = await open_sale(stock=3)
    await set_limit(sale, rate=1, burst=10)
    async with ClientSession(four.url) as http:
        answers = [await press(http, sale, ticket_for(sale, f"b{n}")) for n in range(40)]
    statuses = [response.status for response, _, _ in answers]
    assert statuses[:3] == [202] * 3
    waits = [int(r.headers["Retry-After"]) for r, _, _ in answers if r.status == 429]
    assert max(waits, default=0) <= 4, "no longer than the units left could take"
    assert statuses.count(409) >= 20


async def test_units_that_came_back_can_be_waited_for(
    processes, consumers, open_sale, ticket_for, login_for, set_limit, store, assert_balanced
):
    gateway = await processes.run("gateway")
    sale = await open_sale(stock=1)
    async with ClientSession(gateway.url) as http:
        _, body, _ = await press(http, sale, ticket_for(sale, "a"))
        response, _, _ = await press(http, sale, ticket_for(sale, "b"))
        assert response.status == 409
        async with http.delete(f"/v1/orders/{body['order_id']}", headers=login_for("a")) as r:
            assert r.status == 200
        await assert_balanced(sale)
        await set_limit(sale, rate=1, burst=3)
        limiter = TokenBuckets(store)
        await limiter.take(sale.sale_id, "try", Tier(rate=1, burst=3), ["x", "y", "z"])
        response, body, _ = await press(http, sale, ticket_for(sale, "b"))
        assert response.status == 429
        assert await store.zscore(redis_keys.line(sale.sale_id, "try"), "b"), "a turn is kept"


async def test_cancelling_orders_of_others_makes_no_buyer_wait(
    four, open_sale, ticket_for, login_for, set_limit
):
    sale = await open_sale(stock=10)
    await set_limit(sale, "cancel", rate=2)
    async with ClientSession(four.url) as http:
        _, body, _ = await press(http, sale, ticket_for(sale, "a"))

        async def cancel(buyer, order_id):
            async with http.delete(f"/v1/orders/{order_id}", headers=login_for(buyer)) as response:
                return response.status

        await asyncio.gather(*(cancel("mallory", new_order_id(sale.number)) for _ in range(40)))
        assert await cancel("a", body["order_id"]) == 200


async def test_one_buyer_or_address_cannot_press_without_end(processes, open_sale, ticket_for):
    strict = limits_profile(
        processes.home, buyer="rate = 1\nburst = 3", address="rate = 1\nburst = 5"
    )
    gateway = await processes.run("gateway", **strict)
    sale = await open_sale()
    async with ClientSession(gateway.url) as http:
        own = [await press(http, sale, ticket_for(sale, "alice")) for _ in range(4)]
        others = [await press(http, sale, ticket_for(sale, f"b{n}")) for n in range(3)]
    assert [r.status for r, _, _ in own] == [202, 200, 200, 429]
    assert own[3][0].headers["RateLimit"].startswith('"buyer"')
    assert [r.status for r, _, _ in others][:1] == [202]
    assert others[-1][0].status == 429
    assert others[-1][0].headers["RateLimit"].startswith('"address"')


async def test_shadow_counts_and_lets_pass(processes, open_sale, ticket_for):
    shadow = limits_profile(processes.home, **{"try": 'rate = 1\nburst = 1\nmode = "shadow"'})
    gateway = await processes.run("gateway", **shadow)
    sale = await open_sale()
    async with ClientSession(gateway.url) as http, ClientSession(gateway.admin_url) as admin:
        answers = [await press(http, sale, ticket_for(sale, f"b{n}")) for n in range(5)]
        async with admin.get("/metrics") as response:
            metrics = await response.text()
    assert [r.status for r, _, _ in answers] == [202] * 5
    counted = re.search(r'seckill_admissions_total{op="try",outcome="shadow"} (\d)', metrics)
    assert counted
    assert int(counted[1]) == 4


async def test_a_cancellation_beyond_its_tier_is_done_later(
    four, consumers, open_sale, ticket_for, login_for, set_limit
):
    sale = await open_sale(stock=10)
    orders = {}
    async with ClientSession(four.url) as http:
        for buyer in ("a", "b", "c"):
            _, body, _ = await press(http, sale, ticket_for(sale, buyer))
            orders[buyer] = body["order_id"]
        await set_limit(sale, "cancel", rate=2)

        async def cancel(buyer):
            path = f"/v1/orders/{orders[buyer]}"
            async with http.delete(path, headers=login_for(buyer)) as response:
                return response.status, await response.json(content_type=None)

        # Five at once are its burst: the sixth and seventh wait for their turns, and are done.
        answers = await asyncio.gather(*(cancel(buyer) for buyer in "abcabca"))
    assert [(status, body["status"]) for status, body in answers] == [(200, "cancelled")] * 7
