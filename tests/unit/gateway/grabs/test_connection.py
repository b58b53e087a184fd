"""A connection without a loop: what it does to a transport that is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from gateway.grabs.connection import AHEAD_MAX, Connection, ConnectionFactory


class Gone:
    """A transport whose client sent far ahead and left: nothing can be done with it any more."""

    def __init__(self) -> None:
        self.closing = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert not self.closing

    def resume_reading(self) -> None:
        assert not self.closing, "uvloop raises here"


def test_a_client_that_left_while_its_turn_was_due_costs_the_transport_no_call() -> None:
    shared = SimpleNamespace(
        loop=SimpleNamespace(time=float),
        limits=SimpleNamespace(enter=lambda _: True, leave=lambda: None),
        connections=set(),
    )
    connection, transport = Connection(cast(ConnectionFactory, shared)), cast(Any, Gone())
    connection.connection_made(transport)
    connection.pause_writing()  # so that what comes waits
    connection.data_received(b"x" * (AHEAD_MAX + 1))
    transport.closing = True
    connection.connection_lost(None)
    connection.resume_writing()
