"""A public port: kept for this process while it runs, and listened on when there is room.

Several sockets listen on it at once (SO_REUSEPORT), each with an accept queue of its own, for the
event loop accepts one connection a turn from each.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any

from gateway.overload.tls_acceptor import HANDSHAKE_S, Handshakes, TlsServer

#: Listening sockets for each address: connections that are accepted in one turn of the loop. A grab
#: takes some 20 turns from its accept to its answer, so more of them make all answers later.
SOCKETS = 4
#: Connections that the kernel holds for each of them.
BACKLOG = 4096
#: `tcpi_unacked` in `struct tcp_info`: of a listening socket, the length of its accept queue.
_UNACKED = slice(24, 28)


class ListeningPort:
    """A port that can be opened and closed; each connection gets a protocol of `factory`."""

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        tls: ssl.SSLContext | None,
        prepare: Callable[[Iterable[socket.socket]], None],
    ) -> None:
        self._factory, self._tls = factory, tls
        #: Sets what each connection inherits from its listening socket.
        self._prepare = prepare
        self._loop = asyncio.get_running_loop()
        self._handshakes = Handshakes()
        #: Bound and never listened on, so that no other program takes the port while it is closed.
        self._bound: list[socket.socket] = []
        self._servers: list[asyncio.Server | TlsServer] = []
        #: To ask the kernel by: through the event loop's own it costs 2.6 us instead of 0.3.
        self._sockets: list[socket.socket] = []

    async def bind(self, host: str, port: int) -> None:
        """Take the port, or any if it is 0; raise OSError when that cannot be."""
        found = await self._loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # A name may stand for addresses of a family that this machine does not have.
        addresses = {entry[4]: entry[0] for entry in found if _has_family(entry[0])}
        try:
            for address, family in addresses.items():
                if self._bound:  # should it be 0: the same one for all addresses
                    address = (address[0], self._bound[0].getsockname()[1], *address[2:])
                self._bound.append(_bound_socket(family, address, is_only=len(addresses) == 1))
        except OSError:
            self.release()
            raise
        if not self._bound:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    async def open(self) -> None:
        """Listen; raise OSError when that cannot be."""
        try:
            for bound in self._bound * SOCKETS:
                await self._listen(bound)
        except OSError:
            self.close(most=0)
            raise

    async def _listen(self, bound: socket.socket) -> None:
        listening = _bound_socket(bound.family, bound.getsockname(), is_only=len(self._bound) == 1)
        self._prepare([listening])
        self._sockets.append(socket.socket(fileno=os.dup(listening.fileno())))
        if self._tls is None:
            server = await self._loop.create_server(self._factory, sock=listening, backlog=BACKLOG)
            self._servers.append(server)
        else:
            # Who connects and says nothing stays with the kernel for so long, and costs us nothing.
            # If this socket is closed meanwhile, it hears a reset when it speaks.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(HANDSHAKE_S))
            listening.listen(BACKLOG)
            self._servers.append(TlsServer(self._factory, listening, self._tls, self._handshakes))

    @property
    def is_open(self) -> bool:
        """Tell whether connections are taken."""
        return bool(self._servers)

    def waiting(self) -> int:
        """Return how many connections wait to be accepted."""
        return sum(
            int.from_bytes(
                listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)[_UNACKED],
                sys.byteorder,
            )
            for listening in self._sockets
        )

    def close(self, most: float = math.inf) -> tuple[list[socket.socket], int]:
        """Listen no more: who comes now is refused by the kernel, at no cost to this process.

        Return what waited, longest first and about so many at most; how many others were reset.
        """
        for server in self._servers:
            server.close()
        taken = [self._take(each, most / len(self._sockets)) for each in self._sockets]
        others = self.waiting()
        for listening in self._sockets:
            listening.close()
        self._servers.clear()
        self._sockets.clear()
        in_turn = chain.from_iterable(zip_longest(*taken))
        return [accepted for accepted in in_turn if accepted is not None], others

    def release(self) -> None:
        """Give the port up for good."""
        for bound in self._bound:
            bound.close()
        self._bound.clear()

    def _take(self, listening: socket.socket, most: float) -> list[socket.socket]:
        taken: list[socket.socket] = []
        try:
            while len(taken) < most:
                accepted, _ = listening.accept()
                accepted.setblocking(False)
                taken.append(accepted)
        except OSError:  # none waits any more, or there is no file for it: it is reset then
            pass
        return taken

    async def serve(self, accepted: socket.socket) -> None:
        """Begin with a connection that `close` returned."""
        if self._tls is not None:
            self._handshakes.begin(self._factory(), accepted, self._tls)
            await asyncio.sleep(0)
            return
        try:
            await self._loop.connect_accepted_socket(self._factory, accepted)
        except OSError:
            accepted.close()  # the client left


def _has_family(family: int) -> bool:
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _bound_socket(family: int, address: tuple[Any, ...], *, is_only: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # "::" is all addresses, unless 0.0.0.0 is another one
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_only)
        bound.setblocking(False)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
