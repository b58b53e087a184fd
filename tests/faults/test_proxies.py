"""Gateways behind nginx and HAProxy, configured as deploy/proxy has it."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, TCPConnector

from gateway.http.problems import CONTENT_TYPE, Problem, problem_body
from ops.buyers import PATIENCE, grab
from tests.acceptance.raw_clients import Client, grab_request
from tests.event_streams import event_stream
from tests.front_proxies import HAPROXY, NGINX, in_front
from tests.processes import Process, eventually, limits_profile

#: The gateways are told to stop so long before they close; both proxies have noticed by then.
STOP_DELAY_S = 2
#: New buyers a second, each with a connection of their own: a crowd that a shared core bears.
BUYERS_PER_S = 200


@pytest.fixture(params=[NGINX, HAPROXY], ids=lambda proxy: proxy.name)
def proxy(request):
    if lack := request.param.missing():
        # A machine that tests every change has both.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{request.param.name}: {lack}")
    return request.param


@pytest.fixture
def behind(proxy, processes, tmp_path):
    """Run two gateways and the proxy before them: `async with behind() as (url, gateways)`."""

    @asynccontextmanager
    async def run(**settings):
        gateways = [
            await processes.run("gateway", SECKILL_TRUSTED_PROXIES="127.0.0.1", **settings)
            for _ in range(2)
        ]
        async with in_front(proxy, tmp_path, gateways) as url:
            yield url, gateways

    return run


async def test_a_grab_a_repeat_a_refusal_and_an_orders_events_pass(
    behind, processes, open_sale, ticket_for, login_for, assert_balanced
):
    await processes.run("consumers")
    sale = await open_sale(stock=1)
    async with behind() as (url, _), ClientSession(url, timeout=PATIENCE) as http:
        first = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
        assert first.status == 202
        again = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
        assert (again.status, again.order_id) == (200, first.order_id)
        other = await grab(http, sale.sale_id, "bob", ticket_for(sale, "bob"))
        assert (other.status, other.code) == (409, "sold_out")
        async with event_stream(http, first.order_id, login_for("alice")) as events:
            while (await events.next_order())["status"] != "pending":
                pass
            # The stream is open, and its next event comes at once, not when a buffer is full.
            path = f"/v1/orders/{first.order_id}"
            async with http.delete(path, headers=login_for("alice")) as response:
                assert response.status == 200
            assert (await events.next_order())["status"] == "cancelled"
            assert await events.next() is None
    await assert_balanced(sale)


async def test_buyers_are_counted_by_their_own_addresses(behind, processes, open_sale, ticket_for):
    sale = await open_sale(stock=100)
    limits = limits_profile(processes.home, address="rate = 1\nburst = 3")

    async def press(url, address, buyers, forged=""):
        connector = TCPConnector(local_addr=(address, 0))
        headers = {"X-Forwarded-For": forged} if forged else {}
        async with ClientSession(url, connector=connector, headers=headers) as http:
            return [
                (await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))).status
                for buyer in buyers
            ]

    async with behind(**limits) as (url, _):
        many = await press(url, "127.0.0.3", [f"a{n}" for n in range(30)])
        assert {202, 429} == set(many)
        # An address that the client writes itself is not believed
        forged = [
            *await press(url, "127.0.0.3", ["b1"], "192.0.2.1"),
            *await press(url, "127.0.0.3", ["b2"], "192.0.2.2"),
            *await press(url, "127.0.0.3", ["b3"], "192.0.2.3"),
        ]
        assert 429 in forged
        # And other addresses have what is theirs
        assert await press(url, "127.0.0.4", ["c1", "c2", "c3"]) == [202] * 3


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_C23_an_upgrade_is_not_passed_on(behind, open_sale, ticket_for, protocol):
    sale = await open_sale(stock=100)
    async with behind() as (url, gateways):
        for n in range(8):  # enough to use every connection between the proxy and the gateways
            request = grab_request(
                sale,
                ticket_for(sale, f"b{n}"),
                b'{"quantity": 1}',
                None,
                f"Upgrade: {protocol}",
                "Connection: Upgrade",
            )
            head, _, body = request.partition(b"\r\n\r\n")
            client = await Client().connect(Process(gateways[0].child, url, ""))
            try:
                await client.send(head + b"\r\n\r\n")
                await client.send(body)
                status, _, _ = await client.answer()
                assert status == 202
            finally:
                client.close()
        async with ClientSession(url, timeout=PATIENCE) as http:
            for n in range(8):
                answer = await grab(http, sale.sale_id, f"c{n}", ticket_for(sale, f"c{n}"))
                assert answer.status == 202


async def test_what_is_too_large_is_refused_as_the_gateways_refuse_it(
    behind, open_sale, ticket_for
):
    sale = await open_sale()
    path = f"/v1/sales/{sale.sale_id}/grabs"
    async with behind() as (url, _), ClientSession(url, timeout=PATIENCE) as http:
        ticket = {"Seckill-Ticket": ticket_for(sale, "alice")}
        async with http.post(path, headers=ticket, data=b" " * 5_000) as response:
            assert await problem_of(response) == (413, problem_body(Problem.TOO_LARGE))
        async with http.get(path, headers={"X-Long": "x" * 20_000}) as response:
            assert response.status == 400
        answer = await grab(http, sale.sale_id, "alice", ticket["Seckill-Ticket"])
        assert answer.status == 202


async def test_no_buyer_notices_that_each_gateway_is_restarted(
    behind, processes, open_sale, ticket_for, assert_balanced
):
    await processes.run("consumers")
    sale = await open_sale(stock=100_000)
    limits = limits_profile(processes.home)
    async with behind(**limits) as (url, gateways), crowd(url, sale, ticket_for) as answers:
        for gateway in gateways:
            for what in ("before", "after"):
                if what == "after":
                    await gateway.child.stop()
                    assert gateway.child.describe_end() == "exited with 0"
                    await gateway.child.start()
                await eventually(lambda g=gateway: has_grabs(g), f"it serves {what} it stops")
    seen = {(answer.status, answer.code) for answer in answers}
    # A process may be too busy for a moment; the static answer for a 502 has another code.
    assert seen <= {(202, None), (503, "overloaded")}
    ledger = await assert_balanced(sale)
    accepted = [answer for answer in answers if answer.status == 202]
    assert ledger.lines["orders pending"] == len(accepted)


async def test_without_any_gateway_the_proxy_says_when_to_come_again(behind, open_sale, ticket_for):
    sale = await open_sale()
    async with behind() as (url, gateways), ClientSession(url, timeout=PATIENCE) as http:
        assert (await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))).status == 202
        await asyncio.gather(*(gateway.child.stop() for gateway in gateways))
        ticket = {"Seckill-Ticket": ticket_for(sale, "alice")}
        for _ in range(10):
            path = f"/v1/sales/{sale.sale_id}/grabs"
            async with http.post(path, headers=ticket, json={"quantity": 1}) as response:
                assert response.headers["Retry-After"] == "1"
                assert await problem_of(response) == (503, problem_body(Problem.UNAVAILABLE))
        await gateways[0].child.start()

        async def served():
            answer = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
            return answer.status == 200

        await eventually(served, "the gateway that came back is used")


@asynccontextmanager
async def crowd(url, sale, ticket_for):
    """Let new buyers come all the time, each with a connection; yields their answers."""
    answers, coming = [], set()

    async def buy(buyer):
        async with ClientSession(url, timeout=PATIENCE) as http:
            answers.append(await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer)))

    async def come():
        loop, number = asyncio.get_running_loop(), 0
        begun = loop.time()
        while True:
            number += 1
            task = asyncio.create_task(buy(f"b{number}"))
            coming.add(task)
            task.add_done_callback(coming.discard)
            await asyncio.sleep(begun + number / BUYERS_PER_S - loop.time())

    arriving = asyncio.create_task(come())
    try:
        yield answers
    finally:
        arriving.cancel()
        await asyncio.gather(arriving, *coming, return_exceptions=True)


async def has_grabs(gateway):
    """Tell whether this process has taken a unit for a buyer since its start."""
    async with ClientSession(gateway.admin_url) as admin, admin.get("/metrics") as response:
        lines = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines())
    return float(lines.get('seckill_grabs_total{verdict="accepted"}', 0)) > 0


async def problem_of(response):
    assert response.content_type == CONTENT_TYPE
    return response.status, await response.read()
