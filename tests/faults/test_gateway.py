"""A gateway, or its link to a store, dies at the worst moment."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import ClientSession

from ops.buyers import grab
from seckill.adapters import redis_keys
from tests.processes import eventually, limits_profile


async def test_F12_killed_between_script_and_publish_the_grab_becomes_an_order(
    processes, open_sale, ticket_for, store, assert_balanced, db, amqp_proxy
):
    # Given two gateways, one of which cannot reach the broker and waits long for its confirm
    proxy, url = amqp_proxy
    doomed = await processes.run(
        "gateway",
        SECKILL_AMQP_URL=url,
        SECKILL_CONFIRM_TIMEOUT_S="60",
        SECKILL_RELAY_AGE_MS="99999",
    )
    other = await processes.run("gateway")
    await processes.run("consumers")
    sale = await open_sale(stock=4)
    proxy.freeze()
    async with ClientSession(doomed.url) as at_doomed, ClientSession(other.url) as at_other:
        # When it is killed after the script took a unit, before the broker heard of it
        pressing = asyncio.create_task(
            grab(at_doomed, sale.sale_id, "first", ticket_for(sale, "first"))
        )

        async def holder():
            return await store.hget(redis_keys.holders(sale.sale_id), "first")

        order_id = (await eventually(holder, "the script ran")).decode().partition(":")[0]
        assert not pressing.done()
        doomed.child.send(signal.SIGKILL)
        assert (await pressing).status == 0

        # And ten more buyers sell the sale out and latch the other gateway
        answers = [
            await grab(at_other, sale.sale_id, f"b{n}", ticket_for(sale, f"b{n}"))
            for n in range(10)
        ]
        assert sorted(a.status for a in answers) == [202] * 3 + [409] * 7

        # Then the first buyer's retry gets the order, at the latched gateway (I9)
        retry = await grab(at_other, sale.sale_id, "first", ticket_for(sale, "first"))
        assert (retry.status, retry.order_id) == (200, order_id)

    # And exactly four orders exist, that one among them
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 4
    assert await db.fetchval("SELECT state FROM orders WHERE order_id = $1", order_id) == "pending"


async def test_F07_F25_a_lost_reply_of_redis_is_unknown_and_the_retry_gets_the_order(
    processes, open_sale, ticket_for, assert_balanced, redis_proxy, store
):
    proxy, url = redis_proxy
    # Without rate limits, so that the reply that is lost is the grab's.
    unlimited = limits_profile(processes.home)
    gateway = await processes.run("gateway", SECKILL_REDIS_URL=url, **unlimited)
    await processes.run("consumers")
    sale = await open_sale(stock=2)
    async with ClientSession(gateway.url) as http:
        warm = await grab(http, sale.sale_id, "warm", ticket_for(sale, "warm"))
        assert warm.status == 202
        proxy.lose_replies = True
        lost = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
        assert (lost.status, lost.code) == (503, "unavailable")
        proxy.lose_replies = False
        again = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
        assert again.status == 200, "the script ran once, and only once"
    assert await store.get(redis_keys.stock(sale.sale_id)) == b"0"
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 2


async def test_a_frozen_redis_does_not_run_calls_that_were_given_up(
    processes, services, open_sale, ticket_for, store, assert_balanced
):
    # Without rate limits, so that the call that is given up is the grab's.
    unlimited = limits_profile(processes.home)
    gateway = await processes.run("gateway", SECKILL_REDIS_TIMEOUT_S="0.3", **unlimited)
    await processes.run("consumers")
    sale = await open_sale(stock=2)
    async with ClientSession(gateway.url) as http:
        # So that Redis knows the script, and the gateway that there are units.
        assert (await grab(http, sale.sale_id, "warm", ticket_for(sale, "warm"))).status == 202
        services.pause("redis")
        try:
            answer = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
            assert (answer.status, answer.code) == (503, "unavailable")
        finally:
            services.resume("redis")

        async def redis_answers():
            return (await grab(http, sale.sale_id, "bob", ticket_for(sale, "bob"))).status == 202

        await eventually(redis_answers, "bob gets the unit that alice's late call did not take")
    assert set(await store.hkeys(redis_keys.holders(sale.sale_id))) == {b"warm", b"bob"}
    await assert_balanced(sale)


async def test_a_grab_whose_buyer_hangs_up_is_kept_or_never_made(
    processes, open_sale, ticket_for, assert_balanced
):
    gateway = await processes.run("gateway")
    await processes.run("consumers")
    sale = await open_sale(stock=50)
    async with ClientSession(gateway.url) as http:

        async def hang_up(number: int) -> None:
            press = grab(http, sale.sale_id, f"b{number}", ticket_for(sale, f"b{number}"))
            try:
                await asyncio.wait_for(press, 0.002)
            except TimeoutError:
                return

        await asyncio.gather(*(hang_up(n) for n in range(100)))
    await assert_balanced(sale)


async def test_sigterm_answers_what_is_in_flight_and_exits_cleanly(
    processes, open_sale, ticket_for, amqp_proxy, assert_balanced
):
    proxy, url = amqp_proxy
    gateway = await processes.run("gateway", SECKILL_AMQP_URL=url)
    await processes.run("consumers")
    sale = await open_sale(stock=5)
    async with ClientSession(gateway.url) as http:
        assert (await grab(http, sale.sale_id, "x", "no ticket")).status == 401
        proxy.freeze()
        pressing = asyncio.create_task(grab(http, sale.sale_id, "alice", ticket_for(sale, "alice")))
        async with ClientSession(gateway.admin_url) as admin:

            async def in_flight():
                async with admin.get("/metrics") as response:
                    return 'seckill_in_hand{kind="grabs"} 1.0' in await response.text()

            await eventually(in_flight, "the grab is in flight")
        gateway.child.send(signal.SIGTERM)
        assert (await pressing).status == 202, "answered from the outbox"
        proxy.thaw()
        await gateway.child.wait()
    assert gateway.child.describe_end() == "exited with 0"
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 1


async def test_sigterm_turns_it_unready_first_and_refuses_nobody_who_comes_meanwhile(
    processes, open_sale, ticket_for, assert_balanced
):
    """C24: a balancer looks only now and then; until it has, its requests are served."""
    gateway = await processes.run("gateway", SECKILL_STOP_DELAY_S="2")
    await processes.run("consumers")
    sale = await open_sale(stock=1_000)
    buyers = (f"b{n}" for n in range(1_000))
    statuses: list[int] = []

    async def buy() -> None:
        """Grab over a connection of one's own, as long as there is somebody who listens."""
        while True:
            buyer = next(buyers)
            async with ClientSession(gateway.url) as http:
                answer = await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))
            if answer.status == 0:
                return
            statuses.append(answer.status)

    async with ClientSession(gateway.admin_url) as admin, ClientSession(gateway.url) as kept:

        async def unready() -> bool:
            async with admin.get("/readyz") as response:
                return response.status == 503 and (await response.json())["status"] == "stopping"

        await buy_one_first(gateway, sale, ticket_for)
        gateway.child.send(signal.SIGTERM)
        await eventually(unready, "it says that it stops")
        for path in ("/v1/sales", f"/v1/sales/{sale.sale_id}"):
            async with kept.get(path) as response:
                assert (response.status, response.headers["Connection"]) == (200, "close")
        buying = asyncio.create_task(buy())
        await eventually(
            lambda: asyncio.sleep(0, len(statuses) > 5), "buyers are served all the same"
        )
        await buying  # until nobody listens any more
    await gateway.child.wait()
    assert gateway.child.describe_end() == "exited with 0"
    assert set(statuses) == {202}
    await assert_balanced(sale)


async def buy_one_first(gateway, sale, ticket_for) -> None:
    async with ClientSession(gateway.url) as http:
        assert (await grab(http, sale.sale_id, "x", ticket_for(sale, "x"))).status == 202
