"""The kernel is asked how long bytes have waited, but only while the loop is late."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.overload.lateness import LATE_S, Lateness


class Loop:
    """A clock that stands still within a turn."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def time(self) -> float:
        return self.now


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        with ours, theirs:
            yield ours, theirs


def transport_of(connected: socket.socket | None) -> Any:
    return SimpleNamespace(get_extra_info=lambda _: connected)


def test_while_the_loop_is_in_time_nothing_is_asked() -> None:
    loop = Loop()
    lateness = Lateness(cast(Any, loop))
    loop.now = time.monotonic()
    assert lateness.of(transport_of(None)) == 0.0


def test_late_bytes_have_their_age(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    loop = Loop()
    lateness = Lateness(cast(Any, loop))
    sent_at = time.monotonic()
    ours.send(b"x")
    while time.monotonic() < sent_at + 2 * LATE_S:
        time.sleep(0.01)  # what the process does meanwhile
    waited_s = lateness.of(transport_of(theirs))
    # The kernel counts in jiffies.
    assert 2 * LATE_S - 0.02 <= waited_s <= time.monotonic() - sent_at + 0.02


def test_a_turn_that_follows_an_idle_time_is_not_late(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    loop = Loop()
    lateness = Lateness(cast(Any, loop))
    loop.now -= 60
    lateness.of(transport_of(theirs))
    ours.send(b"x")
    loop.now = time.monotonic()
    assert lateness.of(transport_of(theirs)) < LATE_S
