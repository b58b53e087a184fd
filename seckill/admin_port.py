"""The connections of an admin port: few, so that whoever opens many cannot starve health.

When there is one too many, another is closed to make room, and never refused: probes come last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

#: Connections at once. Prometheus, a balancer or two, the pool manager and an operator need ten; a
#: gateway keeps a hundred open files back for these and its stores.
CONNECTIONS_MAX = 40
#: How long a connection may stay without a whole request: longer than the usual 15 s between two
#: scrapes.
KEEPALIVE_S = 30.0


class AdminPort:
    """Makes the protocol of each connection, and closes the idlest when there are too many."""

    def __init__(
        self, make: Callable[[], asyncio.Protocol], *, connections_max: int = CONNECTIONS_MAX
    ) -> None:
        self._make = make
        self._connections_max = connections_max
        #: The connections in the order in which they last sent something: those that never did
        #: are closed first, of the others the one that has been quiet longest.
        self._silent: dict[AdminConnection, None] = {}
        self._heard: dict[AdminConnection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return AdminConnection(self._make(), self)

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._silent) + len(self._heard)

    def enter(self, connection: AdminConnection) -> None:
        """Count a new connection, and close another one if that is one too many."""
        if len(self) >= self._connections_max:
            idlest = next(iter(self._silent or self._heard))
            self.leave(idlest)  # it may take a turn of the loop to close
            idlest.abort()
        self._silent[connection] = None

    def hear(self, connection: AdminConnection) -> None:
        """Note that a connection has sent something."""
        if connection in self._silent or connection in self._heard:
            self.leave(connection)
            self._heard[connection] = None

    def leave(self, connection: AdminConnection) -> None:
        """Count a connection no more."""
        self._silent.pop(connection, None)
        self._heard.pop(connection, None)


class AdminConnection(asyncio.Protocol):
    """Passes everything on to the protocol that answers, and reports what it sees."""

    def __init__(self, answering: asyncio.Protocol, port: AdminPort) -> None:
        self._answering = answering
        self._port = port

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the port."""
        self._transport = cast(asyncio.Transport, transport)
        self._port.enter(self)
        self._answering.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on what was sent."""
        self._port.hear(self)
        self._answering.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        return self._answering.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client does not read."""
        self._answering.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self._answering.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the port."""
        self._port.leave(self)
        self._answering.connection_lost(exc)
