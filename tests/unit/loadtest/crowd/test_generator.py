"""What the generator reads of answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from loadtest.crowd.generator import Crowd
from loadtest.crowd.requests import PlannedRequest

ANSWER = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\nContent-Length: 11\r\n\r\ncome\r\n\r\nbak"
)


async def answer_of(*pieces: bytes) -> tuple[PlannedRequest, list[bytes]]:
    """Send one request to a server that answers in these pieces."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # so that they arrive one by one
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        bodies: list[bytes] = []
        crowd = Crowd(
            "127.0.0.1",
            server.sockets[0].getsockname()[1],
            connections_max=1,
            on_answer=lambda _request, body: bodies.append(body),
        )
        report = await crowd.run([PlannedRequest(0.0, b"ping")], 1)
    return report.requests[0], bodies


@pytest.mark.parametrize("cut", [len(ANSWER), 3, 20, 68, 70, 74, len(ANSWER) - 1])
async def test_an_answer_is_read_in_however_many_pieces_it_comes(cut: int) -> None:
    answered, bodies = await answer_of(*filter(None, (ANSWER[:cut], ANSWER[cut:])))
    assert (answered.status, answered.retry_after_s) == (429, 7)
    assert bodies == [b"come\r\n\r\nbak"]


async def test_half_an_answer_is_none() -> None:
    answered, bodies = await answer_of(ANSWER[:-1])
    assert (answered.status, bodies) == (0, [])


async def test_who_waits_for_too_long_gives_up_and_leaves_the_connection() -> None:
    closed = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        closed.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        crowd = Crowd("127.0.0.1", port, connections_max=1, patience_s=0.2)
        # The second finds the one connection taken, and is not sent while it is waited for.
        requests = [PlannedRequest(0.0, b"ping"), PlannedRequest(0.01, b"ping")]
        report = await crowd.run(requests, 1)
        async with asyncio.timeout(10):
            await closed.wait()
    assert report.endings() == {"gave up": 2}
    assert report.soon_share() == 0


async def test_beforehand_only_the_first_may_not_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd = Crowd("127.0.0.1", 1, connections_max=3)
    with pytest.raises(ConnectionRefusedError):
        await crowd.connect(3)
    tried: list[int] = []

    async def connect() -> None:
        tried.append(1)
        if len(tried) in {2, 3, 4}:
            raise ConnectionRefusedError

    monkeypatch.setattr(crowd, "_connect", connect)
    await crowd.connect(3)
    assert len(tried) == 6
