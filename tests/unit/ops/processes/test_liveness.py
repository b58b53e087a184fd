"""A process that says nothing for long is ended; one that is slow, starts or ends is not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import cast

import pytest
from aiohttp import ClientSession, ClientTimeout

from ops.processes.child import Child
from ops.processes.liveness import ASK_S, LivenessWatch
from ops.processes.ports import free_port


class FakeChild:
    """A process as the watch sees it."""

    name = "consumers-1"

    def __init__(self) -> None:
        self.pid: int | None = 7
        self.signals: list[int] = []

    def send(self, number: signal.Signals) -> None:
        self.signals.append(number)


class AdminServer:
    """Accepts, and answers when it should."""

    def __init__(self) -> None:
        self.answers = False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if self.answers:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        else:
            await reader.read()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[tuple[AdminServer, str]]:
    admin = AdminServer()
    listening = await asyncio.start_server(admin.accept, "127.0.0.1", 0)
    async with listening:
        yield admin, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


class Watched:
    """A child, and a watch that ends it after three attempts without an answer."""

    def __init__(self, url: str) -> None:
        self.child = FakeChild()
        self.log: list[str] = []
        self._watch = LivenessWatch(
            lambda: {cast(Child, self.child): url}, 3 * ASK_S, self.log.append
        )

    async def ask(self, times: int = 1, *, patience_s: float = 0.1) -> None:
        async with ClientSession(timeout=ClientTimeout(total=patience_s)) as session:
            for _ in range(times):
                await self._watch.ask_all(session)


async def test_one_that_is_silent_long_enough_is_killed_and_the_log_says_why(server) -> None:
    watched = Watched(server[1])
    await watched.ask(2)
    assert (watched.child.signals, watched.log) == ([], [])
    await watched.ask()
    assert watched.child.signals == [signal.SIGKILL]
    assert watched.log == [
        "consumers-1 (pid 7) hangs: its /livez has not answered for 6 s; ending it"
    ]


async def test_one_answer_in_between_is_enough(server) -> None:
    admin, url = server
    watched = Watched(url)
    await watched.ask(2)
    admin.answers = True
    await watched.ask(patience_s=30)
    admin.answers = False
    await watched.ask(2)
    assert (watched.child.signals, watched.log) == ([], [])


async def test_a_successor_begins_afresh(server) -> None:
    watched = Watched(server[1])
    for pid in (7, 7, 8, 8, None, 8, 8):
        watched.child.pid = pid
        await watched.ask()
    assert watched.child.signals == []


async def test_a_closed_port_is_a_process_that_starts_or_ends() -> None:
    watched = Watched(f"http://127.0.0.1:{free_port()}")
    await watched.ask(5, patience_s=30)
    assert watched.child.signals == []
