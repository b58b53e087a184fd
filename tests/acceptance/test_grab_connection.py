"""Grabs taken by the connection, and by aiohttp: the same answers to the same bytes."""

from __future__ import annotations

import asyncio
import json
import random
import re

import pytest
from aiohttp import ClientSession

from gateway.grabs.parser import PlainGrab, read_plain_grab
from seckill.adapters import redis_keys
from tests.acceptance.raw_clients import BODY, GARBAGE, LAST, grab_request, read_by
from tests.processes import Process, eventually

KEEPALIVE_S = 2.0
#: Differences that are none: what is new in each answer, when it was given, and a spoilt name.
_NEW = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f-]{17}"
    rb"|\r\nDate: [^\r]*|there is no sale [^\"]*"
)
#: Ends every connection: what it was in the middle of is complete, and this is no request.
END = b"X" * 70_000


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    return await processes.run("gateway", SECKILL_KEEPALIVE_S=str(KEEPALIVE_S))


@pytest.fixture(scope="module")
async def twins(processes) -> tuple[Process, Process]:
    """A gateway whose connections take plain grabs, and one that leaves all to aiohttp."""
    return await processes.run("gateway"), await processes.run("gateway", SECKILL_FAST_LANE="no")


async def metric(gateway, name: str) -> float:
    async with ClientSession(gateway.admin_url) as admin, admin.get("/metrics") as response:
        text = await response.text()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)", text, re.M))


async def by_aiohttp(gateway) -> float:
    return await metric(gateway, "seckill_grabs_by_aiohttp_total")


async def nothing_in_flight(gateway) -> None:
    async def none() -> bool:
        return await metric(gateway, "seckill_in_hand") == 0

    await eventually(none, "nothing is in flight")


async def test_plain_grabs_are_taken_by_the_connection_whatever_came_before(
    gateway, connect, open_sale, ticket_for
):
    sale = await open_sale()
    client = await connect(gateway)
    request = grab_request(sale, ticket_for(sale, "ann"))
    stages = await metric(gateway, "seckill_grab_stage_seconds_count")
    for sent, status in ((LAST, 404), (request, 202)):  # the sale was not known
        await client.send(sent)
        assert await client.statuses(1) == [status]
    # Parsed, called, replied, published, confirmed, answered: five stages between the six.
    assert await metric(gateway, "seckill_grab_stage_seconds_count") >= stages + 5
    before = await by_aiohttp(gateway)
    for sent, status in ((request, 200), (LAST, 404), (request, 200), (LAST, 404)):
        await client.send(sent)
        assert await client.statuses(1) == [status]
    assert await by_aiohttp(gateway) == before
    await client.send(grab_request(sale, ticket_for(sale, "ann"), BODY, None, "Expect: x"))
    assert await client.statuses(1) == [200]
    assert await by_aiohttp(gateway) == before + 1


def requests_of(sale, ticket_for, rng: random.Random):
    """Requests of one example: plain, refused, strange, and spoilt ones."""
    good = ticket_for(sale, f"b{rng.randrange(3)}")

    def of(body=BODY, framing=None, *headers, ticket=good):
        return grab_request(sale, ticket, body, framing, *headers)

    plain = [
        of(),
        of(b'{"quantity":1}'),
        of(b"{}"),
        of(b'{"quantity": 2}'),
        of(ticket="no ticket"),
        of(ticket=""),
        of(ticket=good[:-1] + "x"),
        of(BODY, None, "X-Forwarded-For: 10.0.0.9", "Cookie: a=b"),
    ]
    strange = [
        of(b"x"),
        of(b""),
        of(b'{"quantity": 0}'),
        of(b'{"colour": "red"}'),
        of(b"[" * 3000),
        of(b"\xff" * 10),
        of(b" " * 5000),
        of(BODY, None, "Expect: 100-continue"),
        of(BODY, None, "Connection: close"),
        of(BODY, None, "Content-Encoding: gzip"),
        of(b"f\r\n" + BODY + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        of().replace(b"/grabs", b"/grabs?x=1"),
        of().replace(b"/v1/sales/", b"/v1/sales/../sales/"),
        of().replace(sale.sale_id.encode(), b".."),
        of().replace(sale.sale_id.encode(), b"nowhere"),
        of().replace(b"POST", b"PUT"),
        of().replace(b"HTTP/1.1", b"HTTP/1.0"),
        of().replace(b"application/json", b"application/json;charset=latin-1"),
        of().replace(b"application/json", b"text/plain"),
        LAST,
    ]
    request = rng.choice(plain if rng.random() < 0.5 else strange)
    if rng.random() < 0.5:
        request = spoilt(request, rng)
    return request


def spoilt(request: bytes, rng: random.Random) -> bytes:
    """Return a request with a few bytes lost, doubled or changed."""
    data = bytearray(request)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                del data[at : at + rng.randint(1, 4)]
            case 1:
                data[at:at] = rng.choice([b"\r\n", b" ", b"\n", b"\0", b":", b"\xff", b"1", b"\t"])
            case 2:
                data[at] = rng.randrange(256)
            case _:
                data[at:at] = data[at : at + rng.randint(1, 40)]
        if not data:
            data = bytearray(b"\r\n")
    return bytes(data)


async def answers_to(
    connect, gateway, packets: list[bytes]
) -> list[tuple[bytes, list[bytes], bytes]]:
    """Send packets, each when the one before was read, and return all that is answered."""
    client = await connect(gateway)
    for packet in packets:
        await client.send(packet)
        await read_by(gateway)
    # By itself: of what comes in one piece with something that is no HTTP, aiohttp answers nothing.
    await nothing_in_flight(gateway)
    await read_by(gateway)
    await client.send(END)
    stream = await client.rest()
    client.close()
    return [normal(answer) for answer in re.split(rb"(?=HTTP/1\.\d \d{3} )", stream)[1:]]


def normal(answer: bytes) -> tuple[bytes, list[bytes], bytes]:
    head, _, body = _NEW.sub(b"", answer).partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    return status, sorted(h for h in headers if not h.startswith(b"Request-Id")), body


@pytest.mark.parametrize("seed", range(12))
async def test_the_same_bytes_get_the_same_answers_both_ways(
    twins, connect, open_sale, ticket_for, seed
):
    """Whatever comes in whatever pieces: status, headers, body, and what can follow."""
    rng = random.Random(seed)  # noqa: S311 - the same in every run
    # Twins, so that one's history is the other's; both are known before.
    fast_sale, slow_sale = await open_sale(stock=6), await open_sale(stock=6)
    if len(fast_sale.sale_id) < len(slow_sale.sale_id):  # "sale-9" and "sale-10"
        fast_sale = await open_sale(stock=6)
    for gateway, sale in zip(twins, (fast_sale, slow_sale), strict=True):
        assert (await answers_to(connect, gateway, [grab_request(sale, "?")]))[0][0].endswith(
            b"nauthorized"
        )
    for _ in range(25):
        state = rng.getstate()
        request = requests_of(fast_sale, ticket_for, rng)
        rng.setstate(state)
        other = requests_of(slow_sale, ticket_for, rng)
        count = min(len(request) - 1, rng.choice([0, 0, 1, 3]))
        cuts = rng.sample(range(1, len(request)), count)
        if isinstance(plain := read_plain_grab(request), PlainGrab):
            cuts.append(plain.length)  # what follows comes by itself, as above
        cuts = sorted({*cuts} - {len(request)})
        answers = []
        for gateway, bytes_ in zip(twins, (request, other), strict=True):
            pieces = [bytes_[a:b] for a, b in zip([0, *cuts], [*cuts, len(bytes_)], strict=True)]
            answers.append(await answers_to(connect, gateway, [*pieces, LAST]))
        assert answers[0] == answers[1], (request, cuts)


@pytest.mark.parametrize("number", range(len(GARBAGE)))
async def test_what_is_not_http_gets_the_same_answers_both_ways(twins, connect, number):
    fast, slow = [await answers_to(connect, gateway, [GARBAGE[number]]) for gateway in twins]
    assert fast == slow


async def test_300_pipelined_grabs_are_answered_in_order_and_all_are_read(
    gateway, connect, open_sale, ticket_for
):
    sale = await open_sale(stock=300)
    buyers = [f"b{n % 250}" for n in range(300)]
    requests = b"".join(grab_request(sale, ticket_for(sale, buyer)) for buyer in buyers)
    client = await connect(gateway)
    first = grab_request(sale, ticket_for(sale, "b0"))
    await client.send(first)
    assert await client.statuses(1) == [202]
    sending = asyncio.create_task(client.send(requests + LAST))
    statuses = await client.statuses(301)
    await sending
    assert statuses == [200] + [202] * 249 + [200] * 50 + [404]


async def test_a_client_that_reads_nothing_is_not_served_on_and_costs_little(
    gateway, connect, open_sale
):
    sale = await open_sale()
    client = await connect(gateway, receive_buffer=4096)
    request = grab_request(sale, "no ticket")
    await client.send(request)
    await client.answer()  # known from now on

    async def be_deaf() -> None:
        while await client.send(request * 50):
            pass

    async with asyncio.timeout(30):
        await be_deaf()  # until the gateway has had enough
    client.close()


async def test_a_connection_that_waits_for_nothing_is_closed(
    gateway, connect, open_sale, ticket_for
):
    sale = await open_sale()
    request = grab_request(sale, ticket_for(sale, "ann"))
    used, fresh, half = [await connect(gateway) for _ in range(3)]
    for _ in range(2):
        await used.send(request)
        assert (await used.answer())[0] in (200, 202)
    await half.send(request[:50])
    assert await used.rest() == await fresh.rest() == await half.rest() == b""


async def test_sigterm_lets_grabs_in_flight_be_answered_and_closes_other_connections(
    processes, connect, open_sale, ticket_for, store
):
    gateway = await processes.run("gateway")
    sale = await open_sale()
    idle, pressing = await connect(gateway), await connect(gateway)
    for client, buyer in ((idle, "ann"), (pressing, "ann")):
        await client.send(grab_request(sale, ticket_for(sale, buyer)))
        await client.answer()
    before = await by_aiohttp(gateway)
    await store.client_pause(500, all=True)  # as long, the grab is in flight
    await pressing.send(grab_request(sale, ticket_for(sale, "bob")))
    gateway.child.send(gateway.child.spec.stop_signal)
    assert await idle.rest() == b""
    status, _, body = await pressing.answer()
    assert (status, json.loads(body)["status"]) == (202, "queued")
    assert await pressing.rest() == b""
    await gateway.child.wait()
    assert before == 1, "the first grab alone: the sale was not known"


async def test_grabs_whose_clients_are_gone_leave_their_batch(
    gateway, connect, open_sale, ticket_for, store
):
    sale = await open_sale(stock=10)
    clients = [await connect(gateway) for _ in range(6)]
    await clients[0].send(grab_request(sale, ticket_for(sale, "b0")))
    assert await clients[0].statuses(1) == [202]
    await store.client_pause(400, all=True)
    # Two calls are under way and cannot be taken back; the other grabs wait for their turn.
    for n, client in enumerate(clients[1:], 1):
        await client.send(grab_request(sale, ticket_for(sale, f"b{n}")))
        await read_by(gateway)
    for client in clients[3:]:
        client.reset()
    await read_by(gateway)
    assert await clients[1].statuses(1) == await clients[2].statuses(1) == [202]

    await nothing_in_flight(gateway)
    assert await store.hlen(redis_keys.holders(sale.sale_id)) == 3
