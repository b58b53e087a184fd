"""Who is let in: a port that is closed for moments, so that those who are in are served in time.

Above capacity the accept queue only grows, and every buyer in it would be served late. To refuse
them one by one takes the time in which others are served, and even the kernel's reset of a
connection does. So when more wait than can be served in time, they are taken in and the port is
closed until they are: the kernel itself refuses who comes then, before there is a connection, and
this process does nothing for it. A client sees at once that the port is closed, and that nothing
was sent.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from gateway.overload.listening_port import BACKLOG, ListeningPort
from seckill import metrics

log = logging.getLogger(__name__)

#: Time between two looks at the queue: 4 system calls of a third of a microsecond each.
LOOK_S = 0.01
#: The same while nothing waits: a busy queue is seen so much later, and a process at rest wakes up
#: a third as often.
IDLE_LOOK_S = 0.03
#: How long the first of the queue may wait to be accepted: a burst, or what came while the machine
#: stood still, is worked off. With what follows, an answer takes a quarter of a second at the most,
#: which is still felt as at once.
ACCEPT_WAIT_MAX_S = 0.1
#: While an overload lasts, the port is closed when more wait than were accepted in so long, on
#: average since it was last closed. A queue that only grows is no use to a buyer by being longer.
OVERLOADED_WAIT_MAX_S = 0.04
#: What is taken in when the port is closed: as many as are accepted in so long. Others are reset.
TAKEN_S = 0.06
#: So few are never too many: they are accepted in some turns of the loop, though a process that
#: stood still, or had little to do, has accepted fewer of late.
FEW = 64
#: The overload lasts until the port has been open for so long.
OVERLOADED_S = 0.25
#: Of those that were taken in, so many begin at a time.
AT_A_TIME = 8


class Listeners:
    """Listens on one port; each connection gets a protocol of `factory`."""

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        prepare: Callable[[Iterable[socket.socket]], None],
    ) -> None:
        self._factory, self._host, self._number = factory, host, port
        self._port = ListeningPort(self._accepted, tls=tls, prepare=prepare)
        self._loop = asyncio.get_running_loop()
        self._queue = AcceptQueue()
        #: Taken in, to be served in this order.
        self._taken: deque[socket.socket] = deque()
        self._closes = False
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen; raise OSError when that cannot be."""
        if (most := _somaxconn()) < BACKLOG:
            log.warning(
                "the kernel holds %d waiting connections a socket, not %d (net.core.somaxconn)",
                most,
                BACKLOG,
            )
        await self._port.bind(self._host, self._number)
        await self._port.open()
        metrics.ACCEPT_QUEUE.set_function(self.waiting)
        self._looking = asyncio.create_task(self._look_on(), name="accept queue")

    def waiting(self) -> int:
        """Return how many connections wait for their turn."""
        return self._port.waiting() + len(self._taken)

    async def close(self) -> None:
        """Listen no more, and begin with what waits."""
        self._closes = True
        if self._looking is not None:
            await self._looking
        self._taken.extend(self._port.close()[0])
        self._port.release()
        await self._serve_taken()

    def _accepted(self) -> asyncio.BaseProtocol:
        """Make the protocol of a connection that was just accepted."""
        self._queue.accepted += 1
        return self._factory()

    async def _look_on(self) -> None:
        while not self._closes:
            await asyncio.sleep(LOOK_S if self._queue.is_busy(self._loop.time()) else IDLE_LOOK_S)
            if self._queue.is_late(self._loop.time(), self._port.waiting()):
                await self._refuse()

    async def _refuse(self) -> None:
        """Close the port until those are served who can be in time."""
        closed_at = self._loop.time()
        taken, others = self._port.close(most=self._queue.room(closed_at))
        metrics.RESET.inc(others)
        self._taken.extend(taken)
        await self._serve_taken()
        fails = False
        while not self._port.is_open and not self._closes:
            try:
                await self._port.open()
            except OSError as error:  # out of open files, say
                if not fails:
                    log.error("cannot listen again, connections are refused: %s", error)
                fails = True
                await asyncio.sleep(LOOK_S)
        now = self._loop.time()
        metrics.PORT_CLOSED.inc(now - closed_at)
        self._queue.opened(now)

    async def _serve_taken(self) -> None:
        async def serve() -> None:
            while self._taken:
                await self._port.serve(self._taken.popleft())

        await asyncio.gather(*(serve() for _ in range(AT_A_TIME)))


class AcceptQueue:
    """How long those have to wait who are not accepted yet."""

    def __init__(self) -> None:
        #: Connections accepted so far.
        self.accepted = 0
        #: When it was looked at, how many were accepted and how many had come by then; only those
        #: that still tell us how long the head of the queue has waited.
        self._looks: deque[tuple[float, int, int]] = deque()
        self._was_late = False
        #: When the port was last closed, and how many were accepted by then.
        self._closed = 0.0, 0
        self._opened_at = float("-inf")
        #: Connections that are accepted in a second, as of the last overload.
        self._per_s = 0.0

    def is_busy(self, now: float) -> bool:
        """Tell whether connections waited at the last look, or an overload lasts."""
        return bool(self._looks) or self._lasts(now)

    def is_late(self, now: float, waiting: int) -> bool:
        """Look, and tell whether those who wait would be late.

        That is so when the head has waited too long at two looks in a row: at the first look after
        the process stood still, what came meanwhile was not its turn yet. While an overload lasts,
        it is so when more wait than are accepted in good time. A few are never late.
        """
        was_late, self._was_late = self._was_late, self._wait_s(now, waiting) > ACCEPT_WAIT_MAX_S
        if waiting <= FEW:
            return False
        if self._lasts(now) and waiting > self._per_s * OVERLOADED_WAIT_MAX_S:
            return True
        return was_late and self._was_late

    def room(self, now: float) -> int:
        """Return how many of those who wait can be served in time, as the port is closed now."""
        lasts = self._lasts(now)
        since, accepted = self._closed if lasts else self._looks[0][:2]
        self._closed = now, self.accepted
        self._per_s = (self.accepted - accepted) / max(now - since, LOOK_S)
        return max(FEW, int(self._per_s * TAKEN_S)) if lasts else 0

    def opened(self, now: float) -> None:
        """Note that the port is open again, with an empty queue."""
        self._opened_at, self._was_late = now, False
        self._looks.clear()

    def _lasts(self, now: float) -> bool:
        """Tell whether an overload lasts."""
        return now - self._opened_at < OVERLOADED_S

    def _wait_s(self, now: float, waiting: int) -> float:
        """Return for how long at least the head of the queue has waited, as looks tell so far."""
        while self._looks and (self._looks[0][2] <= self.accepted or not waiting):
            self._looks.popleft()  # all that had come by then are accepted
        if waiting:
            self._looks.append((now, self.accepted, self.accepted + waiting))
        return now - self._looks[0][0] if self._looks else 0.0


def _somaxconn() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text())
