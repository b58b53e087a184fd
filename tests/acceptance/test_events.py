"""An order's events: every change, in order, to each client that may know, until the last."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import AsyncExitStack

import pytest
from aiohttp import ClientSession

from tests.event_streams import HEARTBEAT, event_stream
from tests.processes import eventually


@pytest.fixture
async def http(gateway):
    """A session with as many connections as a test wants."""
    async with ClientSession(gateway.url) as session:
        yield session


async def cancel(http, order_id, login):
    async with http.delete(f"/v1/orders/{order_id}", headers=login) as response:
        assert response.status == 200


async def metric(gateway, name):
    async with ClientSession(gateway.admin_url) as admin, admin.get("/metrics") as response:
        lines = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines())
        return float(lines[name])


async def test_queued_pending_cancelled_are_heard_in_order_and_then_the_stream_ends(
    http, consumers, open_sale, order_for, ticket_for, login_for, placing_held
):
    sale = await open_sale()
    ticket = {"Seckill-Ticket": ticket_for(sale, "alice")}
    async with AsyncExitStack() as stack:
        async with placing_held(sale):
            order_id = await order_for(http, sale, "alice")
            stream = await stack.enter_async_context(event_stream(http, order_id, ticket))
            queued = await stream.next()
            assert (queued["status"], queued["order_id"]) == ("queued", order_id)
        pending = await stream.next()
        async with http.get(f"/v1/orders/{order_id}", headers=ticket) as response:
            assert pending == await response.json()
        await cancel(http, order_id, login_for("alice"))
        assert (await stream.next())["reason"] == "buyer"
        assert await stream.next() is None
        assert stream.ids == ["queued", "pending", "cancelled"]
        headers = stream.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert stream.retry_ms >= 1000


async def test_all_streams_of_an_order_that_expires_hear_of_it(
    http, consumers, open_sale, order_for, ticket_for, login_for
):
    sale = await open_sale(payment_window_s=2)
    order_id = await order_for(http, sale, "alice")
    ticket = {"Seckill-Ticket": ticket_for(sale, "alice")}
    async with (
        event_stream(http, order_id, ticket) as one,
        event_stream(http, order_id, login_for("alice")) as other,
    ):
        for stream in (one, other):
            while (order := await stream.next()) and order["status"] != "cancelled":
                pass
            assert order["reason"] == "expired"
            assert await stream.next() is None


async def test_a_client_that_comes_back_gets_what_is_new_and_nothing_twice(
    http, consumers, open_sale, order_for, login_for
):
    sale = await open_sale()
    login = login_for("alice")
    order_id = await order_for(http, sale, "alice")
    async with event_stream(http, order_id, login) as stream:
        while (await stream.next())["status"] != "pending":
            pass
    # The client knows "pending": the next event is a change.
    async with event_stream(http, order_id, login, last_event_id="pending") as stream:
        await cancel(http, order_id, login)
        assert (await stream.next())["status"] == "cancelled"
        assert await stream.next() is None
    # The client knows "pending": the order has changed since.
    async with event_stream(http, order_id, login, last_event_id="pending") as stream:
        assert (await stream.next())["status"] == "cancelled"
        assert await stream.next() is None
    # The client knows the end: there is nothing to come back for.
    headers = {**login, "Last-Event-ID": "cancelled"}
    async with http.get(f"/v1/orders/{order_id}/events", headers=headers) as response:
        assert (response.status, await response.read()) == (204, b"")


async def test_only_the_buyer_may_listen(
    http, consumers, open_sale, order_for, ticket_for, login_for
):
    sale = await open_sale()
    order_id = await order_for(http, sale, "alice")
    path = f"/v1/orders/{order_id}/events"
    unknown = f"/v1/orders/{order_id[:-12]}{'0' * 12}/events"
    for url, headers, status, code in [
        (path, {"Seckill-Ticket": ticket_for(sale, "bob")}, 404, "not_found"),
        (path, login_for("bob"), 404, "not_found"),
        (unknown, login_for("alice"), 404, "not_found"),
        (path, {}, 401, "unauthorized"),
        (path, {"Seckill-Ticket": "x"}, 401, "bad_ticket"),
        ("/v1/orders/x/events", login_for("alice"), 422, "bad_request"),
    ]:
        async with http.get(url, headers=headers) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (
                status,
                code,
            )


async def test_slots_are_limited_and_a_freed_one_is_usable_again(
    processes, consumers, open_sale, order_for, login_for
):
    gateway = await processes.run("gateway", SECKILL_EVENT_STREAMS_MAX="2")
    sale = await open_sale()
    async with ClientSession(gateway.url) as http:
        orders = {buyer: await order_for(http, sale, buyer) for buyer in ("a", "b", "c")}
        path = f"/v1/orders/{orders['c']}/events"
        async with event_stream(http, orders["a"], login_for("a")) as stays:
            await stays.next()
            async with event_stream(http, orders["b"], login_for("b")) as leaves:
                await leaves.next()
                async with http.get(path, headers=login_for("c")) as response:
                    assert response.status == 503
                    assert (await response.json(content_type=None))["code"] == "overloaded"
                    assert int(response.headers["Retry-After"]) >= 1
            # The client of the second hangs up.

            async def served():
                async with http.get(path, headers=login_for("c")) as response:
                    return response.status == 200 and await response.content.readline()

            await eventually(served, "a freed slot is taken by the next")
            await cancel(http, orders["a"], login_for("a"))
            while (await stays.next())["status"] != "cancelled":
                pass

        async def all_free():
            return await metric(gateway, "seckill_event_streams") == 0

        await eventually(all_free, "all slots are free in the end")


async def test_one_buyer_cannot_take_all_slots(
    processes, consumers, open_sale, order_for, login_for
):
    gateway = await processes.run("gateway")
    sale = await open_sale()
    async with ClientSession(gateway.url) as http, AsyncExitStack() as stack:
        order_id = await order_for(http, sale, "alice")
        streams = []
        for _ in range(6):
            opened = event_stream(http, order_id, login_for("alice"))
            streams.append(await stack.enter_async_context(opened))
            assert (await streams[-1].next())["order_id"] == order_id
        for oldest in streams[:2]:
            while await oldest.next():
                pass
        await cancel(http, order_id, login_for("alice"))
        for newest in streams[2:]:
            while (await newest.next())["status"] != "cancelled":
                pass


async def test_heartbeats_fill_the_silence(processes, consumers, open_sale, order_for, login_for):
    gateway = await processes.run("gateway", SECKILL_EVENT_HEARTBEAT_S="0.05")
    sale = await open_sale()
    async with ClientSession(gateway.url) as http:
        order_id = await order_for(http, sale, "alice")
        async with event_stream(http, order_id, login_for("alice")) as stream:
            assert (await stream.next())["order_id"] == order_id
            heartbeats = 0
            while heartbeats < 3:
                event = await stream.next()
                assert event is not None, "the stream has ended"
                heartbeats += event == HEARTBEAT
            await cancel(http, order_id, login_for("alice"))
            assert (await stream.next_order())["status"] in ("pending", "cancelled")


async def test_a_client_that_never_reads_is_dropped_and_others_go_on(
    processes, consumers, open_sale, order_for, login_for
):
    # Given heartbeats so frequent that what is not read piles up within seconds
    gateway = await processes.run("gateway", SECKILL_EVENT_HEARTBEAT_S="0.001")
    sale = await open_sale()
    host, port = gateway.url.removeprefix("http://").split(":")
    async with ClientSession(gateway.url) as http:
        orders = {buyer: await order_for(http, sale, buyer) for buyer in ("deaf", "alice")}
        deaf = socket.socket()
        with deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.connect((host, int(port)))
            deaf.sendall(
                f"GET /v1/orders/{orders['deaf']}/events HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: {login_for('deaf')['Authorization']}\r\n\r\n".encode()
            )
            async with event_stream(http, orders["alice"], login_for("alice")) as stream:
                assert (await stream.next())["order_id"] == orders["alice"]

                async def dropped():
                    await stream.next()
                    return await metric(gateway, "seckill_event_streams_dropped_total") == 1

                await eventually(dropped, "a client that never reads is dropped", within_s=60)
                await cancel(http, orders["alice"], login_for("alice"))
                while (order := await stream.next_order())["status"] != "cancelled":
                    assert order["status"] == "pending"
                assert await stream.next() is None


async def test_sigterm_ends_all_streams_at_once_and_exits_cleanly(
    processes, consumers, open_sale, order_for, login_for
):
    # Given a gateway that would wait ten minutes for requests in flight
    gateway = await processes.run("gateway", SECKILL_DRAIN_S="600")
    sale = await open_sale()
    async with ClientSession(gateway.url) as http, AsyncExitStack() as stack:
        streams = []
        for buyer in ("a", "b", "c"):
            order_id = await order_for(http, sale, buyer)
            opened = event_stream(http, order_id, login_for(buyer))
            streams.append(await stack.enter_async_context(opened))
            await streams[-1].next()
        gateway.child.send(signal.SIGTERM)
        for stream in streams:
            while await stream.next():  # to the proper end: no broken connection
                pass
        async with asyncio.timeout(60):
            await gateway.child.wait()
    assert gateway.child.describe_end() == "exited with 0"


async def test_a_token_in_the_url_opens_the_stream_of_its_order_for_its_buyer_alone(
    http, consumers, open_sale, order_for, ticket_for, login_for
):
    sale = await open_sale()
    ids = [await order_for(http, sale, buyer) for buyer in ("alice", "bob")]

    async def token_of(order_id, headers):
        path = f"/v1/orders/{order_id}/stream-tokens"
        async with http.post(path, headers=headers) as response:
            assert response.status == 201
            return (await response.json())["token"]

    async def status(order_id, token):
        path = f"/v1/orders/{order_id}/events"
        async with http.get(path, params={"token": token}) as response:
            return response.status

    for headers in (login_for("alice"), {"Seckill-Ticket": ticket_for(sale, "alice")}):
        token = await token_of(ids[0], headers)
        assert await status(ids[0], token) == 200
        assert await status(ids[1], token) == 401
    # Whoever asks with the id of another buyer's order gets what opens nothing.
    assert await status(ids[1], await token_of(ids[1], login_for("alice"))) == 404
    assert await status(ids[0], "") == 401
    async with http.post(f"/v1/orders/{ids[0]}/stream-tokens") as response:
        assert response.status == 401
