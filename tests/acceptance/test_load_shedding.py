"""With too much in flight a request is refused before it is parsed, and never out of order."""

from __future__ import annotations

import gzip
from operator import contains
from urllib.parse import urlsplit, urlunsplit

import pytest
from aiohttp import ClientSession

from gateway.overload.connection_limits import MISTAKES_MAX, OVERLOADED, is_one_request
from loadtest.proxy import Proxy
from tests.acceptance.raw_clients import BODY, LAST, grab_request, read_by
from tests.processes import eventually

pytestmark = pytest.mark.usefixtures("no_tracebacks")

#: What would be refused as a whole grab, if it were taken for the beginning of a request.
FALSE = b"GET /v1/grabs HTTP/1.1\r\n\r\n"
#: Makes it a part of the last header.
TORN = LAST[:-2] + b"X: "


@pytest.fixture(scope="module")
async def behind_proxy(processes, settings):
    """A gateway whose grabs stay in flight while the proxy to its broker is frozen."""
    url = urlsplit(settings.amqp_url)
    async with Proxy(url.hostname or "", url.port or 0) as proxy:
        login = url.netloc.rpartition("@")[0]
        gateway = await processes.run(
            "gateway",
            SECKILL_AMQP_URL=urlunsplit(url._replace(netloc=f"{login}@127.0.0.1:{proxy.port}")),
            SECKILL_CONFIRM_TIMEOUT_S="60",
            SECKILL_RELAY_AGE_MS="99999",
            SECKILL_REQUESTS_IN_HAND_MAX="64",
        )
        yield gateway, proxy
        await gateway.child.stop()


@pytest.fixture
async def full(behind_proxy, connect, open_sale, ticket_for):
    """A gateway with 64 grabs in flight, its limit; one of them came over the client."""
    gateway, proxy = behind_proxy
    sale = await open_sale(stock=1_000)
    async with ClientSession(gateway.url) as http, ClientSession(gateway.admin_url) as admin:
        # Found before the freeze; not by a grab, which would be expected to begin for a moment.
        async with http.get(f"/v1/sales/{sale.sale_id}") as found:
            assert found.status == 200
        proxy.freeze()
        clients = [await connect(gateway) for _ in range(64)]
        for n, client in enumerate(clients):
            await client.send(grab_request(sale, ticket_for(sale, f"b{n}")))

        async def all_in_flight():
            async with admin.get("/metrics") as response:
                return 'seckill_in_hand{kind="grabs"} 64.0' in await response.text()

        await eventually(all_in_flight, "64 grabs are in flight")
    yield gateway, sale, clients[0]
    proxy.thaw()
    for one in clients[1:]:
        assert (await one.answer())[0] == 202


async def test_with_too_much_in_flight_a_request_is_refused_before_it_is_parsed(
    full, connect, ticket_for
):
    gateway, sale, _ = full
    client = await connect(gateway)
    request = grab_request(sale, ticket_for(sale, "alice"))
    for _ in range(2):
        await client.send(request)
        _, head, body = await client.answer()
        assert head + body == OVERLOADED
    await client.send(LAST)
    assert await client.statuses(1) == [404]
    await client.send(
        grab_request(sale, ticket_for(sale, "alice"), BODY, None, "Connection: close")
    )
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert (head[:12], body) == (b"HTTP/1.1 503", OVERLOADED.partition(b"\r\n\r\n")[2])


async def test_a_refusal_waits_for_what_is_in_flight_on_its_connection(
    full, behind_proxy, ticket_for
):
    (gateway, sale, client), (_, proxy) = full, behind_proxy
    await client.send(grab_request(sale, ticket_for(sale, "alice")))
    await read_by(gateway)
    await client.send(LAST)
    await read_by(gateway)
    proxy.thaw()
    assert await client.statuses(3) == [202, 202, 404]


def conversations(of):
    """Return what is sent in which packets, and the answers; `of` makes a grab."""
    whole, unread = of(), {"ticket": "no ticket"}
    length, chunked = f"Content-Length: {len(FALSE)}", "Transfer-Encoding: chunked"
    chunk = b"%x\r\n" % len(FALSE), FALSE, b"\r\n0\r\n\r\n"
    zipped = gzip.compress(b"x" * 70, mtime=0)
    padded = TORN.ljust(70 - len(zipped))
    # The first empty line after a head that was cut before its own.
    misleading = b"x" * (len(TORN) - 4) + b"\r\n\r\n"
    mixed = of(**unread) + LAST + whole + LAST
    return {
        "two": ([whole + whole], [503, 503]),
        "100, refused for several reasons": ([mixed * 25], [401, 404, 503, 404] * 25),
        "one and a half": ([whole + whole[:90], whole[90:]], [503, 503]),
        "a split head": ([whole[:90], whole[90:]], [503]),
        "a late body": ([whole[: -len(BODY)], BODY], [503]),
        "an empty line before": ([b"\r\n" + whole], [503]),
        "as a header": ([TORN, FALSE], [404]),
        "as a header, behind another": ([LAST + TORN, FALSE], [404, 404]),
        "as a header, behind a body": ([of(b"x") + TORN, FALSE], [{400, 503}, 404]),
        "as a header, behind a body that swells": (
            [of(zipped, None, "Content-Encoding: gzip") + padded, FALSE],
            [415, 404],
        ),
        "as a header, behind a misleading body": (
            [of(misleading)[: -len(misleading) - 2], b"\r\n" + misleading + TORN, FALSE],
            [{400, 503}, 404],
        ),
        # Whether it is read or refused depends on whether aiohttp waits for the rest of it.
        "as a body": ([of(b"", length), FALSE], [{400, 503}]),
        "as a body that is not read": ([of(b"", length, **unread), FALSE], [{401, 503}]),
        "as a body of strange length": (
            [of(b"", length.replace(": ", ": 0000000")), FALSE],
            [400],
        ),
        "as a chunk": ([of(chunk[0], chunked), *chunk[1:]], [400]),
        "as a chunk that is not read": ([of(chunk[0], chunked, **unread), *chunk[1:]], [401]),
    }


async def test_refusals_never_come_out_of_order(full, connect, ticket_for):
    gateway, sale, _ = full
    assert is_one_request(FALSE)
    good = ticket_for(sale, "alice")

    def of(body=BODY, framing=None, *headers, ticket=good):
        return grab_request(sale, ticket, body, framing, *headers)

    for name, (packets, statuses) in conversations(of).items():
        client = await connect(gateway)
        for packet in packets:
            await client.send(packet)
            await read_by(gateway)
        await client.send(LAST)
        answered = await client.statuses(len(statuses) + 1)
        expected = [one if isinstance(one, set) else {one} for one in (*statuses, 404)]
        assert all(map(contains, expected, answered)), (name, answered)
        client.send_no_more()
        assert await client.rest() == b"", name


async def test_connections_that_rest_after_their_mistakes_are_served_again(
    processes, connect, open_sale, ticket_for
):
    gateway, sale = await processes.run("gateway"), await open_sale(stock=5)
    wrong = (
        f"POST /v1/sales/{sale.sale_id}/tickets HTTP/1.1\r\nHost: x\r\n"
        "Content-Length: 0\r\nAuthorization: Bearer junk\r\n\r\n"
    ).encode()
    clients = [await connect(gateway) for _ in range(MISTAKES_MAX + 50)]
    for _ in range(2):
        for client in clients:
            await client.send(wrong)
        assert [await client.statuses(1) for client in clients] == [[401]] * len(clients)
    await clients[-1].send(grab_request(sale, ticket_for(sale, "ann")))
    assert await clients[-1].statuses(1) == [202]
