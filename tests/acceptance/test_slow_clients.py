"""Slow clients, idle clients and clients that read nothing: other buyers are served meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import resource
from pathlib import Path

import pytest

from tests.acceptance.raw_clients import Client, grab_request
from tests.processes import Process, eventually

pytestmark = pytest.mark.usefixtures("no_tracebacks")

#: How long `gateway` keeps a connection without a whole request.
KEEPALIVE_S = 2.0
PAGE = resource.getpagesize()


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    """One process, so that what a bad client does to it meets all other buyers."""
    return await processes.run(
        "gateway", SECKILL_KEEPALIVE_S=str(KEEPALIVE_S), SECKILL_REQUESTS_IN_HAND_MAX="64"
    )


@pytest.fixture(scope="module")
async def patient(processes) -> Process:
    """One with the settings that are shipped."""
    return await processes.run("gateway")


def rss(gateway) -> int:
    return int(Path(f"/proc/{gateway.child.pid}/statm").read_text().split()[1]) * PAGE


def open_files(gateway) -> int:
    return len(list(Path(f"/proc/{gateway.child.pid}/fd").iterdir()))


async def send_slowly(clients, data: bytes, until: asyncio.Future) -> None:
    """Send a byte now and then on each connection, over and over."""
    bytes_ = itertools.cycle(data)
    while not until.done():
        byte = bytes([next(bytes_)])
        for client in clients:
            await client.send(byte)
        await asyncio.wait([until], timeout=0.2)


async def test_connections_whose_heads_come_byte_by_byte_are_closed(
    gateway, others_served, connect
):
    async with others_served(gateway):
        slow = [await connect(gateway) for _ in range(200)]
        closed = asyncio.gather(*(client.rest() for client in slow))
        await send_slowly(slow, b"GET /a-very-long-path", closed)
        assert set(closed.result()) == {b""}


async def test_bodies_that_come_byte_by_byte_take_no_place_of_others(
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
