"""Clients that are slow, deaf, broken or hostile: they get what they deserve, others are served."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import resource
import socket
import struct
from collections.abc import Awaitable
from contextlib import ExitStack, asynccontextmanager, suppress
from operator import contains
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from aiohttp import ClientSession

from gateway.overload.aiohttp_protocol import OVERLOADED, is_one_request
from ops.buyers import PATIENCE, grab
from tests.faults.proxy import Proxy
from tests.processes import Process, eventually

#: How long the gateways of most tests bear a connection without a whole request.
KEEPALIVE_S = 2.0
PAGE = resource.getpagesize()
BODY = b'{"quantity": 1}'
#: Answered by aiohttp alone, and told from all else: what stands behind the thing under test.
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    """One process, so that what a bad client does to it meets everybody."""
    return await processes.run(
        "gateway", SECKILL_KEEPALIVE_S=str(KEEPALIVE_S), SECKILL_REQUESTS_IN_HAND_MAX="64"
    )


@pytest.fixture(scope="module")
async def patient(processes) -> Process:
    """One with the settings that are shipped."""
    return await processes.run("gateway")


@pytest.fixture(autouse=True)
def _no_tracebacks(processes):
    yield
    for log in (processes.home / "logs").glob("gateway-*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()[-5_000:]


@pytest.fixture
def others_served(open_sale, ticket_for):
    """Let honest buyers grab, one after another, while the block runs; each gets his unit."""

    @asynccontextmanager
    async def serving(gateway):
        sale, buyers = await open_sale(stock=100_000), itertools.count()
        over = asyncio.Event()

        async def press(http):
            buyer = f"b{next(buyers)}"
            answer = await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))
            assert answer.status == 202, answer
            async with http.get(f"/v1/sales/{sale.sale_id}") as response:
                assert response.status == 200

        async def press_on(http):
            while not over.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.02)
                await press(http)

        async with ClientSession(gateway.url, timeout=PATIENCE) as http:
            await press(http)
            pressing = asyncio.create_task(press_on(http))
            try:
                yield
            finally:
                over.set()
                await pressing

    return serving


class Client:
    """A connection that sends whatever bytes it is told to."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setblocking(False)
        # Each `send` is a packet, at once: else the kernel keeps one back until the last is known
        # to have come.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = asyncio.get_running_loop()
        self._received = b""

    async def connect(self, gateway, *, receive_buffer=None) -> Client:
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        parts = urlsplit(gateway.url)
        await self._loop.sock_connect(self._socket, (parts.hostname, parts.port))
        return self

    async def send(self, data: bytes) -> bool:
        """Send, and tell whether the gateway still listens."""
        try:
            await self._loop.sock_sendall(self._socket, data)
        except ConnectionError:
            return False
        return True

    def send_no_more(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Read one answer: status, head and body."""
        while b"\r\n\r\n" not in self._received:
            assert await self._receive(), f"closed after {self._received}"
        end = self._received.index(b"\r\n\r\n") + 4
        head = self._received[:end]
        end += int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(self._received) < end:
            assert await self._receive(), f"closed after {self._received}"
        body, self._received = self._received[len(head) : end], self._received[end:]
        return int(head.split()[1]), head, body

    async def statuses(self, count: int) -> list[int]:
        return [(await self.answer())[0] for _ in range(count)]

    async def rest(self) -> bytes:
        """Read until the gateway closes, or resets."""
        while await self._receive():
            pass
        return self._received

    async def _receive(self) -> bytes:
        data = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                data = await self._loop.sock_recv(self._socket, 65_536)
        self._received += data
        return data


@pytest.fixture
def connect():
    """Connect: `client = await connect(gateway)`. All are closed in the end."""
    with ExitStack() as stack:

        def make(gateway, **options) -> Awaitable[Client]:
            client = Client()
            stack.callback(client.close)
            return client.connect(gateway, **options)

        yield make


def grab_request(sale, ticket, body=BODY, framing=None, *headers) -> bytes:
    lines = [
        f"POST /v1/sales/{sale.sale_id}/grabs HTTP/1.1",
        "Host: x",
        f"Seckill-Ticket: {ticket}",
        "Content-Type: application/json",
        framing or f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def rss(gateway) -> int:
    return int(Path(f"/proc/{gateway.child.pid}/statm").read_text().split()[1]) * PAGE


def open_files(gateway) -> int:
    return len(list(Path(f"/proc/{gateway.child.pid}/fd").iterdir()))


async def read_by(gateway) -> None:
    """Return when the gateway has read all that was sent to it before."""
    async with ClientSession(gateway.url) as http, http.get("/v1/nothing") as response:
        assert response.status == 404


async def send_slowly(clients, data: bytes, until: asyncio.Future) -> None:
    """Send a byte now and then on each connection, over and over."""
    bytes_ = itertools.cycle(data)
    while not until.done():
        byte = bytes([next(bytes_)])
        for client in clients:
            await client.send(byte)
        await asyncio.wait([until], timeout=0.2)


async def test_heads_that_come_byte_by_byte_are_thrown_out(gateway, others_served, connect):
    async with others_served(gateway):
        slow = [await connect(gateway) for _ in range(200)]
        closed = asyncio.gather(*(client.rest() for client in slow))
        await send_slowly(slow, b"GET /a-very-long-path", closed)
        assert set(closed.result()) == {b""}


async def test_bodies_that_come_byte_by_byte_take_nobodys_place(
    gateway, others_served, connect, open_sale, ticket_for, login_for
):
    plain, worked_for = await open_sale(), await open_sale(proof_bits=8)
    length, login = "Content-Length: 1000", login_for("alice")["Authorization"]
    heads = (
        grab_request(plain, ticket_for(plain, "alice"), b"", length),
        f"POST /v1/sales/{worked_for.sale_id}/tickets HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {login}\r\n{length}\r\n\r\n".encode(),
    )
    async with others_served(gateway):
        slow = [await connect(gateway) for _ in range(200)]
        for client, head in zip(slow, itertools.cycle(heads), strict=False):
            await client.send(head)
        closed = asyncio.gather(*(client.rest() for client in slow))
        await send_slowly(slow, b" ", closed)
        assert {answer.split()[1] for answer in closed.result()} == {b"408"}


async def test_clients_that_read_no_answer_are_dropped_and_memory_stays_bounded(
    gateway, others_served, connect, open_sale
):
    sale = await open_sale()
    requests = b"GET /v1/sales/%b HTTP/1.1\r\nHost: x\r\n\r\n" % sale.sale_id.encode() * 100
    before, seen = rss(gateway), []

    async def be_deaf(client) -> None:
        while await client.send(requests):
            pass
        seen.append(rss(gateway))

    async with others_served(gateway):
        clients = [await connect(gateway, receive_buffer=4096) for _ in range(20)]
        await asyncio.wait_for(asyncio.gather(*map(be_deaf, clients)), 30)
    assert max(seen) - before < 20 * 1024 * 1024


async def test_5000_idle_connections_cost_little_and_free_their_places(
    patient, others_served, connect
):
    count = 5_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"needs {count + 500} open files, ulimit -Hn says {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[Client] = []
    try:
        files, memory = open_files(patient), rss(patient)
        async with others_served(patient):
            for _ in range(count):
                idle.append(await connect(patient))

            async def accepted():
                return open_files(patient) >= files + count

            await eventually(accepted, "all are accepted")
            each = (rss(patient) - memory) // count
            assert each < 40_000, "settings.py says about 20 kB"
        async with others_served(patient):
            pass
    finally:
        for client in idle:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def freed():  # but for what else may have been opened: links to the stores
        return open_files(patient) < files + 50

    await eventually(freed, "their places are free")


OVERSIZED = {
    "a header of 10 kB": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
    "200 headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "a head of 1 MB": b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"X: " + b"y" * 1_000 + b"\r\n") * 1_000,
    "a request line of 100 kB": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}


async def test_oversized_heads_are_malformed(gateway, others_served, connect):
    async with others_served(gateway):
        for name, request in OVERSIZED.items():
            client = await connect(gateway)
            await client.send(request)
            status, head, body = await client.answer()
            assert (status, json.loads(body)["code"]) == (400, "malformed"), name
            assert b"application/problem+json" in head
            assert await client.rest() == b""


POST = b"POST /v1/sales HTTP/1.1\r\nHost: x\r\n"
GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"GET /\r\n\r\n",  # HTTP/0.9
    b"\0" * 100,
    b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\nContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\rHost: x\r\r",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT : HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/orders/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/x HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"POST /v1/sales/x/tickets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n",
    POST + b"Content-Length: -5\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nxxxxx\r\n0\r\n\r\n",
]


async def test_garbage_is_refused_or_cut_off(gateway, others_served, connect, open_sale):
    noise = random.Random(7)  # noqa: S311 - the same in every run
    letters = b"GET POST /v1/sales HTTP/1.1\r\n:\0\xff"
    garbage = [
        *GARBAGE,
        grab_request(await open_sale(), "?").replace(b"?", b"\xff"),
        *(noise.randbytes(500) for _ in range(50)),
        *(b"GET /" + bytes(noise.choices(letters, k=200)) + b"\r\n\r\n" for _ in range(50)),
    ]
    async with others_served(gateway):
        for data in garbage:
            client = await connect(gateway)
            await client.send(data)
            client.send_no_more()
            answer = await client.rest()
            assert not answer or answer[8:10] == b" 4", data


@pytest.fixture(scope="module")
async def behind_proxy(processes, settings):
    """A gateway whose grabs stay in hand while the proxy to its broker is frozen."""
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
    """A gateway with 64 grabs in hand, its limit; one of them came over `client`."""
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

        async def all_in_hand():
            async with admin.get("/metrics") as response:
                return 'seckill_in_hand{kind="grabs"} 64.0' in await response.text()

        await eventually(all_in_hand, "64 grabs are in hand")
    yield gateway, sale, clients[0]
    proxy.thaw()
    for one in clients[1:]:
        assert (await one.answer())[0] == 202


async def test_with_too_much_in_hand_the_door_refuses_before_parsing(full, connect, ticket_for):
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
    assert await client.rest() == OVERLOADED


async def test_the_door_does_not_answer_before_what_is_in_hand_on_a_connection(
    full, behind_proxy, ticket_for
):
    (gateway, sale, client), (_, proxy) = full, behind_proxy
    await client.send(grab_request(sale, ticket_for(sale, "alice")))
    await read_by(gateway)
    await client.send(LAST)
    await read_by(gateway)
    proxy.thaw()
    assert await client.statuses(3) == [202, 202, 404]


#: What the door would take for a whole grab, were it to meet it between two requests.
FALSE = b"GET /v1/grabs HTTP/1.1\r\n\r\n"
#: Makes it a part of its last header.
TORN = LAST[:-2] + b"X: "


def conversations(of):
    """What is sent in which packets, and the answers; `of` makes a grab."""
    whole, unread = of(), {"ticket": "no ticket"}
    length, chunked = f"Content-Length: {len(FALSE)}", "Transfer-Encoding: chunked"
    chunk = b"%x\r\n" % len(FALSE), FALSE, b"\r\n0\r\n\r\n"
    zipped = gzip.compress(b"x" * 70, mtime=0)
    padded = TORN.ljust(70 - len(zipped))
    # The first empty line after a head that was cut before its own.
    misleading = b"x" * (len(TORN) - 4) + b"\r\n\r\n"
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    nowhere = f"POST /v1/sales/nowhere/grabs HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode()
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
        # Whether it is read or refused at the door depends on who waits for the rest of it.
        "as a body": ([of(b"", length), FALSE], [{400, 503}]),
        "as a body that is not read": ([of(b"", length, **unread), FALSE], [{401, 503}]),
        "as a body of strange length": (
            [of(b"", length.replace(": ", ": 0000000")), FALSE],
            [400],
        ),
        "as a chunk": ([of(chunk[0], chunked), *chunk[1:]], [400]),
        "as a chunk that is not read": ([of(chunk[0], chunked, **unread), *chunk[1:]], [401]),
        "as a body behind an upgrade": ([upgrade + nowhere, FALSE], [404, 404]),
    }


async def test_the_door_never_answers_out_of_order(full, connect, ticket_for):
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
        told = await client.statuses(len(statuses) + 1)
        expected = [one if isinstance(one, set) else {one} for one in (*statuses, 404)]
        assert all(map(contains, expected, told)), (name, told)
        client.send_no_more()
        assert await client.rest() == b"", name


async def test_pipelined_requests_are_answered_in_order(patient, connect, open_sale, ticket_for):
    sale = await open_sale()
    good = grab_request(sale, ticket_for(sale, "alice"))
    bad = grab_request(sale, "no ticket")
    client = await connect(patient)
    await client.send((good + bad + LAST) * 34)
    assert await client.statuses(102) == [202, 401, 404] + [200, 401, 404] * 33


async def test_half_closed_clients_count_as_gone_and_a_retry_gets_the_order(
    gateway, others_served, connect, open_sale, ticket_for
):
    """Nobody can tell them from buyers who have left, whose grabs must leave their batch."""
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


async def test_old_clients_and_those_that_want_no_more_are_answered_and_closed(
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


PLACES = 50


@pytest.fixture(scope="module")
async def small(processes) -> Process:
    return await processes.run("gateway", SECKILL_CONNECTIONS_MAX=str(PLACES))


async def test_beyond_connections_max_a_connection_is_refused_and_a_freed_place_taken(
    small, others_served, connect
):
    async with others_served(small):  # over one connection
        held = [await connect(small) for _ in range(PLACES - 1)]
        assert await (await connect(small)).rest() == OVERLOADED
        held[0].close()
        await place_in(small, connect)


async def place_in(gateway, connect) -> Client:
    """Connect until it is not too much."""

    async def taken():
        client = await connect(gateway)
        await client.send(LAST)
        return client if await client.statuses(1) == [404] else None

    return await eventually(taken, "there is room")


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
        assert await (await connect(small)).rest() == OVERLOADED
        for client in held:
            await client.send(LAST)
            assert await client.statuses(1) == [404]
