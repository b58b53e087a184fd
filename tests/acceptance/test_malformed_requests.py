"""What is too long, or not HTTP at all: it is refused, and other buyers are served meanwhile."""

from __future__ import annotations

import json
import random

import pytest

from tests.acceptance.raw_clients import GARBAGE, grab_request
from tests.processes import Process

pytestmark = pytest.mark.usefixtures("no_tracebacks")

OVERSIZED = {
    "a header of 10 kB": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
    "200 headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "a head of 1 MB": b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"X: " + b"y" * 1_000 + b"\r\n") * 1_000,
    "a request line of 100 kB": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    """One process, so that what a bad client does to it meets all other buyers."""
    return await processes.run("gateway")


async def test_oversized_heads_are_malformed(gateway, others_served, connect):
    async with others_served(gateway):
        for name, request in OVERSIZED.items():
            client = await connect(gateway)
            await client.send(request)
            status, head, body = await client.answer()
            assert (status, json.loads(body)["code"]) == (400, "malformed"), name
            assert b"application/problem+json" in head
            assert await client.rest() == b""


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
            # What might be another version of HTTP is told which are spoken.
            assert not answer or answer[8:10] == b" 4" or answer[9:12] == b"505", data
