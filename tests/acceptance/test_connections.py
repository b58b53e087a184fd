"""How connections are used: pipelined, half-closed, closed, reset, and too many of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.raw_clients import BODY, LAST, Client, grab_request
from tests.processes import Process, eventually

pytestmark = pytest.mark.usefixtures("no_tracebacks")

PLACES = 50


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    """One process, so that what a bad client does to it meets all other buyers."""
    return await processes.run("gateway")


@pytest.fixture(scope="module")
async def small(processes) -> Process:
    """One with room for few connections."""
    return await processes.run("gateway", SECKILL_CONNECTIONS_MAX=str(PLACES))


async def test_pipelined_requests_are_answered_in_order(gateway, connect, open_sale, ticket_for):
    sale = await open_sale()
    good = grab_request(sale, ticket_for(sale, "alice"))
    bad = grab_request(sale, "no ticket")
    client = await connect(gateway)
    await client.send((good + bad + LAST) * 34)
    assert await client.statuses(102) == [202, 401, 404] + [200, 401, 404] * 33


async def test_half_closed_clients_count_as_gone_and_a_retry_gets_the_order(
    gateway, others_served, connect, open_sale, ticket_for
):
    """They look like buyers who have left, whose grabs must leave their batch."""
    sale = await open_sale(stock=100)
    requests = [grab_request(sale, ticket_for(sale, buyer)) for buyer in ("a", "b", "c")]

    async def half_close(sent):
        client = await connect(gateway)
        await client.send(sent)
        client.send_no_more()
        await client.rest()  # to the end: it is closed

    async with others_served(gateway):
        await asyncio.gather(
            half_close(b""), *map(half_close, requests), half_close(requests[0][:50])
        )
    client = await connect(gateway)
    await client.send(b"".join(requests))
    assert set(await client.statuses(3)) <= {200, 202}


async def test_clients_of_http_1_0_and_those_that_ask_to_close_are_answered_and_closed(
    gateway, connect, open_sale, ticket_for
):
    sale = await open_sale()
    request = grab_request(sale, ticket_for(sale, "alice"))
    old = request.replace(b"HTTP/1.1", b"HTTP/1.0")
    for sent, status in (
        (old, 202),
        (grab_request(sale, ticket_for(sale, "alice"), BODY, None, "Connection: close"), 200),
    ):
        client = await connect(gateway)
        await client.send(sent)
        assert await client.statuses(1) == [status]
        assert await client.rest() == b""
    client = await connect(gateway)
    for _ in range(2):
        await client.send(old.replace(b"Host: x", b"Connection: keep-alive"))
        assert await client.statuses(1) == [200]


async def place_in(gateway, connect) -> Client:
    """Connect until there is room, and return the client; again after a reset, too."""

    async def taken():
        client = await connect(gateway)
        await client.send(LAST)
        return client if await client.receive() and await client.statuses(1) == [404] else None

    return await eventually(taken, "there is room")


async def test_C22_beyond_connections_max_the_longest_idle_give_way_to_who_wants_to_buy(
    small, connect, open_sale, ticket_for
):
    sale = await open_sale(stock=1_000)
    silent = [await connect(small) for _ in range(PLACES)]
    for n in range(10):
        request = grab_request(sale, ticket_for(sale, f"b{n}"))

        async def statuses(request=request):
            """Grab; again after a reset, which is what a gateway without time answers."""
            client = await connect(small)
            await client.send(request)
            return await client.receive() and await client.statuses(1)

        assert await eventually(statuses, "a grab is answered") in ([202], [200])
    assert await asyncio.gather(*(client.rest() for client in silent[:5])) == [b""] * 5


async def test_connections_that_are_reset_free_their_places(
    small, others_served, connect, open_sale, ticket_for
):
    sale = await open_sale(stock=1_000)
    async with others_served(small):
        for n in range(600):
            request = grab_request(sale, ticket_for(sale, f"b{n}"))
            client = await connect(small)
            await client.send((b"", request[:50], request)[n % 3])
            client.close() if n % 4 else client.reset()
        held = [await place_in(small, connect) for _ in range(PLACES - 1)]
        for client in held:
            await client.send(LAST)
            assert await client.statuses(1) == [404]
