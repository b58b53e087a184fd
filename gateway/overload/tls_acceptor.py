"""Accepting connections with TLS, so that silent clients keep no buyer out.

The event loop's own server counts a connection only after its handshake. Clients that connect and
send nothing would use up the open files unseen: no buyer, no operator and no store could be
reached. So handshakes are begun here, bounded in number and in time; when all places are taken, the
oldest gives way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence

from seckill import metrics

#: Handshakes at a time. An honest one takes some milliseconds of this process and two ways there
#: and back, so a thousand are as many as a process finishes in a second.
HANDSHAKES_MAX = 1_000
#: Time until a handshake begins, and then for it; a bad mobile link takes two seconds.
HANDSHAKE_S = 5.0
#: Accepted in one turn of the loop; a handshake is work for more than one.
ACCEPTED_MAX = 8


class Handshakes:
    """The handshakes of a process, oldest first."""

    def __init__(self, most: int = HANDSHAKES_MAX) -> None:
        self._most = most
        self._tasks: dict[asyncio.Task[None], None] = {}

    def begin(
        self,
        protocol: asyncio.BaseProtocol,
        accepted: socket.socket,
        tls: ssl.SSLContext,
    ) -> None:
        """Shake hands with a connection that was just accepted; the oldest handshake makes room."""
        if len(self._tasks) >= self._most:
            oldest = next(iter(self._tasks))
            oldest.cancel()
            del self._tasks[oldest]
            metrics.EVICTED.inc()
        task = asyncio.create_task(self._shake(protocol, accepted, tls), name="TLS handshake")
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _shake(
        self,
        protocol: asyncio.BaseProtocol,
        accepted: socket.socket,
        tls: ssl.SSLContext,
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await _until_bytes_come(accepted)
            await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S
            )
        except (OSError, EOFError):  # TimeoutError is an OSError
            accepted.close()  # the client left, took too long or does not speak TLS as we do
        except asyncio.CancelledError:
            accepted.close()
            raise


async def _until_bytes_come(accepted: socket.socket) -> None:
    """Return when there is something to read: until then a handshake would cost for nothing."""
    loop, come = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(accepted.fileno(), come.set)
    try:
        await come.wait()
    finally:
        loop.remove_reader(accepted.fileno())


class TlsServer:
    """One listening socket: as much of an `asyncio.Server` as Listeners needs."""

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        listening: socket.socket,
        tls: ssl.SSLContext,
        handshakes: Handshakes,
    ) -> None:
        self._factory, self._tls, self._handshakes = factory, tls, handshakes
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening.fileno(), self._accept)

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening socket."""
        return (self._listening,)

    def close(self) -> None:
        """Listen no more; what waits in the accept queue is reset."""
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_MAX):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            accepted.setblocking(False)
            # The factory is called now: Listeners counts by it what was accepted.
            self._handshakes.begin(self._factory(), accepted, self._tls)
