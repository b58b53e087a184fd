"""A store becomes unavailable during a sale and comes back; nothing is lost or sold twice."""

from __future__ import annotations

import asyncio
import signal

import pytest
from aiohttp import ClientSession

from gateway.sales.pages import LAG_S
from ops.buyers import flash_crowd, grab
from seckill.adapters import redis_keys
from tests.processes import eventually


@pytest.fixture
async def gateway(processes):
    return await processes.run("gateway")


async def test_F12_broker_frozen_grabs_are_taken_from_the_outbox_and_relayed_later(
    processes, services, gateway, open_sale, ticket_for, store, assert_balanced
):
    await processes.run("consumers")
    sale = await open_sale(stock=20)
    async with ClientSession(gateway.url) as http:
        assert (await grab(http, sale.sale_id, "x", "no ticket")).status == 401
        services.pause("rabbitmq")
        try:
            for n in range(10):
                answer = await grab(http, sale.sale_id, f"b{n}", ticket_for(sale, f"b{n}"))
                assert answer.status == 202
            assert await store.xlen(redis_keys.outbox(sale.sale_id)) == 10
            async with ClientSession(gateway.admin_url) as admin, admin.get("/readyz") as ready:
                assert (await ready.json())["checks"]["rabbitmq"] is False
                assert ready.status == 200
        finally:
            services.resume("rabbitmq")
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] == 10


async def test_broker_killed_and_started_again_everything_goes_on(
    processes, services, gateway, open_sale, ticket_for, assert_balanced
):
    await processes.run("consumers")
    # A window of its own: a broker killed while it makes a queue leaves one that confirms nothing.
    sale = await open_sale(stock=30, payment_window_s=2)
    async with ClientSession(gateway.url) as http:
        for n in range(10):
            answer = await grab(http, sale.sale_id, f"before{n}", ticket_for(sale, f"before{n}"))
            assert answer.status == 202
        await services.kill("rabbitmq")
        for n in range(10):
            answer = await grab(http, sale.sale_id, f"during{n}", ticket_for(sale, f"during{n}"))
            assert answer.status == 202
        await services.start("rabbitmq")

        async def all_expired():
            ledger = await assert_balanced(sale, wait_s=60)
            return ledger.lines["orders cancelled"] == 20

        await eventually(all_expired, "every order was placed and ran out", within_s=60)


async def test_a_full_outbox_refuses_before_anything_is_taken(
    processes, open_sale, ticket_for, store, amqp_proxy
):
    proxy, url = amqp_proxy
    gateway = await processes.run("gateway", SECKILL_AMQP_URL=url, SECKILL_OUTBOX_MAX="3")
    sale = await open_sale(stock=20)
    proxy.freeze()
    async with ClientSession(gateway.url) as http:
        answers = [
            await grab(http, sale.sale_id, f"b{n}", ticket_for(sale, f"b{n}")) for n in range(5)
        ]
    assert [a.status for a in answers] == [202, 202, 202, 503, 503]
    assert answers[3].code == "overloaded"
    assert await store.get(redis_keys.stock(sale.sale_id)) == b"17"


async def test_postgresql_killed_grabs_go_on_and_orders_follow(
    processes, services, gateway, open_sale, ticket_for, assert_balanced
):
    await processes.run("consumers")
    sale = await open_sale(stock=20)
    ticket = ticket_for(sale, "b0")
    async with ClientSession(gateway.url) as http:
        assert (await grab(http, sale.sale_id, "x", "no ticket")).status == 401
        await services.kill("postgresql")
        try:
            for n in range(10):
                answer = await grab(http, sale.sale_id, f"b{n}", ticket_for(sale, f"b{n}"))
                assert answer.status == 202
            first = await grab(http, sale.sale_id, "b0", ticket)
            url = f"/v1/orders/{first.order_id}"
            async with http.get(url, headers={"Seckill-Ticket": ticket}) as response:
                assert (await response.json())["status"] == "queued"
        finally:
            await services.start("postgresql")
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] == 10


async def test_the_page_of_a_sale_is_shown_while_stores_hang(
    processes, open_sale, postgres_proxy, redis_proxy
):
    (postgresql, dsn), (redis, redis_url) = postgres_proxy, redis_proxy
    gateway = await processes.run("gateway", SECKILL_POSTGRES_DSN=dsn, SECKILL_REDIS_URL=redis_url)
    sale = await open_sale(stock=20)
    async with ClientSession(gateway.url) as http:

        async def remaining(path):
            async with http.get(path) as response:
                page = await response.json()
                assert response.status == 200, page
                return page["sales"][0]["remaining"] if "sales" in page else page["remaining"]

        path = f"/v1/sales/{sale.sale_id}"
        assert await remaining(path) == 20
        postgresql.freeze()
        for _ in range(3):  # each after the reading before it has lapsed
            await asyncio.sleep(LAG_S)
            assert await remaining(path) == 20
        postgresql.thaw()
        redis.freeze()

        async def is_unknown():
            return [await remaining("/v1/sales?limit=1"), await remaining(path)] == [None, None]

        await eventually(is_unknown, "the pages say that the units left are not known")
        redis.thaw()

        async def is_known():
            return await remaining(path) == 20

        await eventually(is_known, "the units left are known again")


async def test_F08_a_killed_redis_comes_back_with_every_reservation(
    processes, services, gateway, open_sale, ticket_for, assert_balanced
):
    await processes.run("consumers")
    sale = await open_sale(stock=100)
    tickets = {f"b{n}": ticket_for(sale, f"b{n}") for n in range(300)}
    crowd = asyncio.create_task(flash_crowd(gateway.url, sale.sale_id, tickets, connections=20))
    async with ClientSession(gateway.url) as http:

        async def some_sold():
            async with http.get(f"/v1/sales/{sale.sale_id}") as response:
                return (await response.json()).get("remaining", 100) < 100

        await eventually(some_sold, "the sale is under way")
    await services.kill("redis")
    await services.start("redis")
    answers = await crowd
    won = {a.order_id for a in answers if a.status in (200, 202)}
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] >= len(won)
    assert ledger.lines["orders pending"] <= 100


async def test_F08_an_emptied_redis_is_unavailable_and_never_sold_out(
    processes, gateway, open_sale, ticket_for, store
):
    sale = await open_sale(stock=1)
    async with ClientSession(gateway.url) as http:
        for buyer, status in (("a", 202), ("b", 409)):
            answer = await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))
            assert answer.status == status
        await store.delete(
            redis_keys.stock(sale.sale_id),
            redis_keys.sale(sale.sale_id),
            redis_keys.holders(sale.sale_id),
        )
        for buyer in ("a", "b", "c"):  # by the latched look-up, for a holder and for others
            answer = await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))
            assert (answer.status, answer.code) == (503, "unavailable")


async def test_a_consumer_killed_again_and_again_loses_and_doubles_nothing(
    processes, gateway, open_sale, ticket_for, assert_balanced
):
    sale = await open_sale(stock=400)
    tickets = {f"b{n}": ticket_for(sale, f"b{n}") for n in range(400)}
    crowd = asyncio.create_task(
        flash_crowd(gateway.url, sale.sale_id, tickets, connections=10, presses=1)
    )
    consumer = await processes.run("consumers")
    for _ in range(3):
        consumer.child.send(signal.SIGKILL)
        await consumer.child.wait()
        await consumer.child.start()
    answers = await crowd
    assert {a.status for a in answers} == {202}
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] == 400


@pytest.mark.parametrize("path", ["", "/ledger"])
async def test_an_operator_is_shown_which_store_does_not_answer(
    processes, open_sale, settings, redis_proxy, path
):
    proxy, url = redis_proxy
    gateway = await processes.run("gateway", SECKILL_REDIS_URL=url)
    sale = await open_sale()
    await proxy.__aexit__()
    token = settings.admin_token.get_secret_value()
    async with (
        ClientSession(gateway.admin_url, headers={"Authorization": f"Bearer {token}"}) as admin,
        admin.get(f"/admin/sales/{sale.sale_id}{path}") as response,
    ):
        body = await response.json(content_type=None)
        assert (response.status, body["code"]) == (503, "unavailable")
        assert "Redis does not answer" in body["detail"]
