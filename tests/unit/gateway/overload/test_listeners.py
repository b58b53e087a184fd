"""A queue is late when its head has waited too long, at two looks in a row."""

from __future__ import annotations

import itertools
import socket
from asyncio import Protocol
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.overload.listeners import (
    ACCEPT_WAIT_MAX_S,
    CLOSING_TURNS,
    LOOK_S,
    OVERLOADED_WAIT_MAX_S,
    Listeners,
    _ListeningSocket,
)


class Queue(_ListeningSocket):
    """An accept queue of the test's own."""

    def __init__(self) -> None:
        super().__init__(Protocol)
        self.length = 0

    def waiting(self) -> int:
        return self.length

    def accept(self, count: int) -> None:
        for _ in range(count):
            self()
        self.length -= count


@pytest.fixture
def queue() -> Queue:
    return Queue()


LATE_S = ACCEPT_WAIT_MAX_S + LOOK_S


def test_a_head_that_is_not_accepted_makes_the_queue_late(queue: Queue) -> None:
    queue.length = 1
    looks = [queue.is_late(now) for now in (0.0, ACCEPT_WAIT_MAX_S, LATE_S, LATE_S + LOOK_S)]
    assert looks == [False, False, False, True]


def test_while_the_overload_lasts_it_is_late_sooner(queue: Queue) -> None:
    queue.length = 1
    moments = (0.0, OVERLOADED_WAIT_MAX_S, OVERLOADED_WAIT_MAX_S + LOOK_S, LATE_S - LOOK_S)
    assert [queue.is_late(now, OVERLOADED_WAIT_MAX_S) for now in moments] == [False] * 3 + [True]


def test_a_long_queue_that_moves_on_is_not_late(queue: Queue) -> None:
    queue.length = 1_000
    for n in range(100):
        assert not queue.is_late(n * LOOK_S)
        queue.accept(200)
        queue.length += 200


def test_after_a_standstill_the_queue_has_a_turn_first(queue: Queue) -> None:
    queue.length = 3
    assert not queue.is_late(0.0)
    assert not queue.is_late(10.0)  # nothing turned meanwhile
    queue.accept(3)
    queue.length = 3
    assert not queue.is_late(10.0 + LOOK_S)


def test_an_empty_queue_is_not_late_though_a_connection_was_never_counted(queue: Queue) -> None:
    queue.length = 1
    assert not queue.is_late(0.0)
    queue.length = 0  # it was aborted before it was accepted
    assert [queue.is_late(now) for now in (1.0, 2.0, 3.0)] == [False] * 3


def test_it_is_busy_while_connections_wait(queue: Queue) -> None:
    seen = []
    for length in (0, 2, 1, 0):
        queue.length = length
        queue.is_late(0.0)
        seen.append(queue.is_busy)
    assert seen == [False, True, True, False]


def test_who_waits_is_counted_and_reset_when_it_is_closed() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    queue = _ListeningSocket(Protocol)
    queue.server = cast(Any, SimpleNamespace(sockets=[listening], close=listening.close))
    queue.watch()
    clients = [socket.create_connection(listening.getsockname()) for _ in range(3)]
    assert queue.waiting() == 3
    queue.close()
    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize(
    ("lengths", "looks"), [([2, 1, 0], 3), (itertools.repeat(1), CLOSING_TURNS)]
)
async def test_it_closes_when_nothing_waits_or_after_some_turns(
    lengths: Iterable[int], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = Listeners(Protocol, "127.0.0.1", 0, tls=None, prepare=lambda _: None)
    await listeners.open()
    seen = []
    following = iter(lengths)

    def waiting() -> int:
        seen.append(next(following))
        return seen[-1]

    monkeypatch.setattr(listeners, "waiting", waiting)
    await listeners.close()
    assert len(seen) == looks
