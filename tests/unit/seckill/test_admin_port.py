"""Many connections to an admin port keep no other client out."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from seckill.admin_port import AdminPort


class Answering(asyncio.Protocol):
    """Writes down what it gets."""

    def __init__(self) -> None:
        self.got: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.got.append("made")

    def data_received(self, data: bytes) -> None:
        self.got.append(data)

    def eof_received(self) -> bool:
        self.got.append("eof")
        return True

    def pause_writing(self) -> None:
        self.got.append("pause")

    def resume_writing(self) -> None:
        self.got.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.got.append("lost")


class FakeTransport(asyncio.Transport):
    """Remembers whether it was aborted."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class Clients:
    """Clients of a port with room for three."""

    def __init__(self) -> None:
        self.answering: list[Answering] = []
        self.port = AdminPort(self._make, connections_max=3)

    def _make(self) -> asyncio.Protocol:
        self.answering.append(Answering())
        return self.answering[-1]

    def connect(self) -> tuple[asyncio.Protocol, FakeTransport]:
        protocol, transport = self.port(), FakeTransport()
        protocol.connection_made(cast(asyncio.BaseTransport, transport))
        return protocol, transport


@pytest.fixture
def clients() -> Clients:
    return Clients()


def test_of_many_silent_connections_the_oldest_are_closed(clients: Clients) -> None:
    transports = [clients.connect()[1] for _ in range(2_000)]
    assert len(clients.port) == 3
    assert [each.aborted for each in transports] == [True] * 1_997 + [False] * 3


def test_one_that_has_asked_outlives_those_that_have_not(clients: Clients) -> None:
    scraper, its_transport = clients.connect()
    scraper.data_received(b"GET /metrics HTTP/1.1\r\n\r\n")
    others = [clients.connect()[1] for _ in range(10)]
    assert not its_transport.aborted
    assert [each.aborted for each in others] == [True] * 8 + [False] * 2


def test_of_those_that_have_asked_the_quietest_is_closed(clients: Clients) -> None:
    asked = [clients.connect() for _ in range(3)]
    for protocol, _ in asked:
        protocol.data_received(b"x")
    asked[0][0].data_received(b"y")
    clients.connect()
    assert [transport.aborted for _, transport in asked] == [False, True, False]


def test_one_that_leaves_makes_room(clients: Clients) -> None:
    opened = [clients.connect() for _ in range(3)]
    opened[2][0].connection_lost(None)
    clients.connect()
    assert [transport.aborted for _, transport in opened] == [False] * 3


def test_what_comes_after_the_close_counts_for_nothing(clients: Clients) -> None:
    first, _ = clients.connect()
    for _ in range(3):
        clients.connect()
    first.data_received(b"late")
    first.connection_lost(None)
    assert len(clients.port) == 3


def test_everything_is_passed_on(clients: Clients) -> None:
    protocol, _ = clients.connect()
    protocol.data_received(b"x")
    protocol.pause_writing()
    protocol.resume_writing()
    assert protocol.eof_received() is True
    protocol.connection_lost(None)
    assert clients.answering[0].got == ["made", b"x", "pause", "resume", "eof", "lost"]
