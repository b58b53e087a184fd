"""The listening sockets of a process, and what becomes of connections that wait too long for it.

The event loop accepts one connection a turn from each listening socket. With one socket, a process
that is busy accepts slowly, its accept queue fills, and the kernel then drops what comes: clients
try again after 1, 3 and 7 s, unseen by anything here. So a process listens by several sockets on
one port (SO_REUSEPORT), each with a queue of its own.

Above capacity a queue grows all the same, and every buyer in it would be served late. So its wait
is measured, many times a second. A socket whose queue takes longer than the budget is replaced:
when it is closed, the kernel resets all connections that wait in it, at once and for next to
nothing, while refusing them one by one would take the time in which others are served. What is
accepted has waited no longer than the budget.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gateway.overload.tls_acceptor import Handshakes, TlsServer, listen
from seckill import metrics

log = logging.getLogger(__name__)

#: Listening sockets of one process: connections that are accepted in one turn of the loop. A grab
#: takes some 20 turns from its accept to its answer, so more of them make all answers later.
SOCKETS = 4
#: Connections that the kernel holds for each of them.
BACKLOG = 4096
#: Time between two looks at the queues: 4 system calls of a third of a microsecond each.
LOOK_S = 0.01
#: The same while nothing waits: a busy queue is seen so much later, and a process at rest wakes up
#: a third as often.
IDLE_LOOK_S = 0.03
#: How long a connection may wait to be accepted. With what follows, an answer takes a quarter of a
#: second at the most, which is still felt as at once.
ACCEPT_WAIT_MAX_S = 0.1
#: The same while the overload lasts. A burst may wait for the longer time, to be worked off. A
#: queue that only grows is no use to a buyer by being longer.
OVERLOADED_WAIT_MAX_S = 0.05
#: The overload lasts until nothing has been reset for so long.
OVERLOADED_S = 0.25
#: Turns of the event loop in which a closing port takes what comes meanwhile; each takes one
#: connection from each socket.
CLOSING_TURNS = 100
#: `tcpi_unacked` in `struct tcp_info`: of a listening socket, the length of its accept queue.
_UNACKED = slice(24, 28)


class Listeners:
    """Listens on one port by several sockets; each connection gets a protocol of `factory`."""

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        prepare: Callable[[asyncio.Server | TlsServer], None],
    ) -> None:
        self._factory, self._host, self._port, self._tls = factory, host, port, tls
        #: Sets what each connection inherits from its listening socket.
        self._prepare = prepare
        self._loop = asyncio.get_running_loop()
        self._handshakes = Handshakes()
        self._open: list[_ListeningSocket] = []
        #: Whether the last try to listen anew failed; that is logged once.
        self._fails = False
        self._reset_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen; raise OSError when that cannot be."""
        if (most := _somaxconn()) < BACKLOG:
            log.warning(
                "the kernel holds %d waiting connections a socket, not %d (net.core.somaxconn)",
                most,
                BACKLOG,
            )
        for _ in range(SOCKETS):
            listener = await self._listen()
            self._port = listener.server.sockets[0].getsockname()[1]  # should it be 0: any
            self._open.append(listener)
        metrics.ACCEPT_QUEUE.set_function(self.waiting)
        self._looking = asyncio.create_task(self._look_on(), name="accept queues")

    def waiting(self) -> int:
        """Return how many connections wait to be accepted."""
        return sum(listener.waiting() for listener in self._open)

    async def close(self) -> None:
        """Listen no more, once nothing waits; if more always comes, what is left is reset."""
        if self._looking is not None:
            self._looking.cancel()
        turns = CLOSING_TURNS + max((listener.waiting() for listener in self._open), default=0)
        while turns and self.waiting():
            turns -= 1
            await asyncio.sleep(0)  # a turn of the loop accepts one from each socket
        for listener in self._open:
            listener.close()
        self._open.clear()

    async def _listen(self) -> _ListeningSocket:
        listener = _ListeningSocket(self._factory)
        if self._tls is None:
            listener.server = await self._loop.create_server(
                listener, self._host, self._port, reuse_port=True, backlog=BACKLOG
            )
        else:
            listening = listen(self._host, self._port, BACKLOG)
            listener.server = TlsServer(listener, listening, self._tls, self._handshakes)
        self._prepare(listener.server)
        listener.watch()
        return listener

    async def _look_on(self) -> None:
        while True:
            is_busy = any(listener.is_busy for listener in self._open)
            await asyncio.sleep(LOOK_S if is_busy else IDLE_LOOK_S)
            now = self._loop.time()
            lasts = now - self._reset_at < OVERLOADED_S
            wait_max_s = OVERLOADED_WAIT_MAX_S if lasts else ACCEPT_WAIT_MAX_S
            late = [n for n, each in enumerate(self._open) if each.is_late(now, wait_max_s)]
            if late:
                self._reset_at = now
                await asyncio.gather(*(self._replace(n, self._open[n]) for n in late))

    async def _replace(self, n: int, listener: _ListeningSocket) -> None:
        """Reset what waits at one socket; the new one first, so that the port is never closed."""
        try:
            self._open[n] = await self._listen()
        except OSError as error:  # out of open files, say: then what waits has to wait
            if not self._fails:
                log.error("cannot listen anew, connections wait: %s", error)
            self._fails = True
            return
        self._fails = False
        metrics.RESET.inc(listener.waiting())
        listener.close()


def _somaxconn() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


class _ListeningSocket:
    """One listening socket (with a host of several addresses, one each), and its accept queue."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self.server: asyncio.Server | TlsServer
        #: To ask the kernel by: through the event loop's own it costs 2.6 us instead of 0.3.
        self._sockets: list[socket.socket] = []
        self._factory = factory
        self._accepted = 0
        #: When it was looked at, and how many had come by then; only those that still tell us
        #: how long the head of the queue has waited.
        self._looks: deque[tuple[float, int]] = deque()
        self._was_late = False

    def __call__(self) -> asyncio.BaseProtocol:
        """Make the protocol of a connection that was just accepted."""
        self._accepted += 1
        return self._factory()

    def watch(self) -> None:
        """Ask the kernel about the server's sockets from now on."""
        self._sockets = [
            socket.socket(fileno=os.dup(listening.fileno())) for listening in self.server.sockets
        ]

    def close(self) -> None:
        """Listen no more; what waits in the accept queue is reset."""
        self.server.close()
        for listening in self._sockets:
            listening.close()

    @property
    def is_busy(self) -> bool:
        """Tell whether connections waited at the last look."""
        return bool(self._looks)

    def waiting(self) -> int:
        """Return how many connections wait in its accept queue."""
        return sum(
            int.from_bytes(
                listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)[_UNACKED],
                sys.byteorder,
            )
            for listening in self._sockets
        )

    def is_late(self, now: float, wait_max_s: float = ACCEPT_WAIT_MAX_S) -> bool:
        """Look, and tell whether the head of the queue has waited too long at two looks in a row.

        At the first look after the process stood still, what came meanwhile was not its turn yet.
        """
        was_late, self._was_late = self._was_late, self._wait_s(now) > wait_max_s
        return was_late and self._was_late

    def _wait_s(self, now: float) -> float:
        """Return for how long at least the head of the queue has waited, as looks tell so far."""
        waiting = self.waiting()
        while self._looks and (self._looks[0][1] <= self._accepted or not waiting):
            self._looks.popleft()  # all that had come by then are accepted
        if waiting:
            self._looks.append((now, self._accepted + waiting))
        return now - self._looks[0][0] if self._looks else 0.0
