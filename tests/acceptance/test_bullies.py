"""Clients that send as fast as they are answered: an honest buyer still has their turn (C20, C21).

No time is asserted. Between two answers to the honest buyer, each bully gets a bounded number.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.raw_clients import Client, grab_request
from tests.processes import Process

#: Answers to the honest buyer while the bullies go on. They ask for what the process answers by
#: itself: how long stores take on a busy machine is no part of this.
HONEST = 30
HONEST_REQUEST = b"GET /proof-worker.js HTTP/1.1\r\nHost: x\r\n\r\n"
#: Connections of two clients, and what each keeps under way: less than the gateway reads ahead.
PIPELINING, AHEAD = 16, 200
#: A turn of the gateway's loop serves eight grabs of each connection, and an honest request takes a
#: few turns. What a bully has under way may come in between, too, in one piece. Served in one go,
#: as they were once, each bully got 10,000 and more.
PIPELINED_MAX = 2_000
#: Connections that send junk as their login token, one request at a time.
JUNK = 200
#: Each has one request under way, and is answered once in a few turns.
JUNK_MAX = 50


#: How each answer begins.
ANSWER = b"HTTP/1.1 "


class Bully:
    """A connection that keeps requests under way; `answers` counts what it has read."""

    def __init__(self, client: Client, request: bytes, ahead: int) -> None:
        self._client, self._request, self._ahead = client, request, ahead
        self.answers = 0

    async def press(self) -> None:
        """Send the next request for each answer: a 401, or a 503 while too much is in flight."""
        await self._client.send(self._request * self._ahead)
        rest = b""
        while data := await self._client.receive():
            received = rest + data
            new, rest = received.count(ANSWER), received[1 - len(ANSWER) :]
            self.answers += new
            await self._client.send(self._request * new)
        raise AssertionError("a bully was disconnected")


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    return await processes.run("gateway")


@pytest.fixture
def most_between(gateway, connect):
    """Let an honest buyer ask beside bullies; return the most answers of one between two."""

    async def most_of(bullies, pressing, honest, ahead: int) -> int:
        most = 0
        while not all(bully.answers >= ahead for bully in bullies):
            await asyncio.sleep(0.01)  # a poll
            assert not any(task.done() for task in pressing), pressing
        for _ in range(HONEST):
            before = [bully.answers for bully in bullies]
            await honest.send(HONEST_REQUEST)
            assert (await honest.answer())[0] == 200
            most = max(most, *(b.answers - a for a, b in zip(before, bullies, strict=True)))
        assert not any(task.done() for task in pressing), pressing
        return most

    async def accepted() -> Client:
        client = await connect(gateway)
        await client.send(HONEST_REQUEST)
        assert (await client.answer())[0] == 200
        return client

    async def play(request: bytes, count: int, ahead: int) -> int:
        # All are accepted before the first begins: a busy process resets what waits for long.
        honest, *clients = [await accepted() for _ in range(1 + count)]
        bullies = [Bully(client, request, ahead) for client in clients]
        pressing = [asyncio.create_task(bully.press()) for bully in bullies]
        try:
            most = await most_of(bullies, pressing, honest, ahead)
        finally:
            for task in pressing:
                task.cancel()
            await asyncio.wait(pressing)
        return most

    return play


async def test_an_honest_buyer_has_their_turn_beside_clients_that_pipeline_junk(
    most_between, open_sale
):
    request = grab_request(await open_sale(), "no ticket")
    assert 0 < await most_between(request, PIPELINING, AHEAD) < PIPELINED_MAX


async def test_an_honest_buyer_has_their_turn_beside_200_that_send_junk_as_login_tokens(
    most_between, open_sale
):
    sale = await open_sale()
    lines = (
        f"POST /v1/sales/{sale.sale_id}/tickets HTTP/1.1",
        "Host: x",
        "Content-Length: 0",
        "Authorization: Bearer " + ("x" * 2_600 + ".") * 2 + "x" * 2_600,
    )
    request = "\r\n".join([*lines, "", ""]).encode()
    assert await most_between(request, JUNK, 1) < JUNK_MAX
