"""What bounds the connections of a process: their number, and how soon a refused one is read again.

A process that gets more requests than it can answer spends time on refusals, too. So a refusal is
one write of bytes that are built once, and the refused connection then rests: it is not read for a
while. A client that obeys Retry-After notices nothing of that.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict

from gateway.http.problems import Problem, raw_problem
from seckill import metrics

#: How long a refused connection is not read. Without it, a client that does not obey Retry-After
#: would keep the process busy with refusals. A proxy's next request waits so long at most.
REST_S = 0.25
#: So many of these are read again at a time, at this interval: refusing 10,000 a second takes a
#: fifth of a core. All at once they would take it whole, and no grab would get done.
WAKES_MAX = 100
WAKE_S = 0.01
#: Mistakes of clients that are answered in so long a time as if nothing was: 1,000 a second are a
#: fifth of a core. The connections of further ones rest.
MISTAKES_MAX, MISTAKES_S = 100, 0.1


_REQUEST_LINE = re.compile(rb"(?:GET|POST|DELETE) /v1/\S* HTTP/1\.1\r\n")
_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,6})[ \t]*(?=\r\n|\Z)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*close", re.IGNORECASE)
_ORIGIN = re.compile(rb"\r\norigin:", re.IGNORECASE)
#: How far into a request its path may reach for it to count as a grab.
GRAB_WITHIN = 120
#: The whole answer to a request that is shed, or to a connection too many.
OVERLOADED = raw_problem(Problem.OVERLOADED)


def is_grab(data: bytes) -> bool:
    """Tell whether `data` begins with a grab."""
    return data.find(b"/grabs HTTP/", 0, GRAB_WITHIN) >= 0


def is_one_request(data: bytes) -> bool:
    """Tell whether `data` is exactly one whole request of ours, so that one answer answers it."""
    if not _REQUEST_LINE.match(data):
        return False
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    framing = len(_FRAMING.findall(head))
    if not framing:
        return not body
    lengths = _LENGTH.findall(head)
    return framing == len(lengths) == 1 and len(body) == int(lengths[0])


class ConnectionLimits:
    """Counts the connections of a process, and lets those that were refused rest."""

    def __init__(self, connections_max: int, *, cors: bool = False) -> None:
        self.connections_max = connections_max
        #: Whether there are pages of other origins, which can read only what bears their headers.
        self._cors = cors
        self.connections = 0
        #: Connections that were closed to make room, and have not left yet.
        self.leaving = 0
        #: By connection, when it is read again, and for how many rests it then rests on.
        self._resting: OrderedDict[asyncio.Transport, tuple[float, int]] = OrderedDict()
        self._mistakes, self._mistakes_until = 0, 0.0

    def enter(self, transport: asyncio.Transport) -> bool:
        """Take a connection, or refuse and close it when there are too many."""
        self.connections += 1
        if self.connections - self.leaving <= self.connections_max:
            return True
        metrics.REFUSED_CONNECTION.inc()
        transport.write(OVERLOADED)
        transport.close()
        return False

    @property
    def full(self) -> bool:
        """Tell whether one more would be too many."""
        return self.connections - self.leaving >= self.connections_max

    def leave(self) -> None:
        """Note that a connection has ended: there is room for another."""
        self.connections -= 1

    def may_refuse(self, data: bytes) -> bool:
        """Tell whether `data` can be refused unparsed: it is one request, for certain."""
        return is_one_request(data) and not (self._cors and _ORIGIN.search(data))

    def refuse(self, transport: asyncio.Transport, data: bytes) -> bool:
        """Answer, unparsed, the one request that `data` is; False if it is none for certain."""
        if not self.may_refuse(data):
            return False
        metrics.REFUSED_SHED.inc()
        transport.write(OVERLOADED)
        if _CLOSE.search(data):
            transport.close()
        return True

    def note_mistake(self, transport: asyncio.Transport) -> bool:
        """Note that a client was answered what it did wrong; return whether it now rests."""
        now = asyncio.get_running_loop().time()
        if now >= self._mistakes_until:
            self._mistakes, self._mistakes_until = 0, now + MISTAKES_S
        self._mistakes += 1
        rests = self._mistakes > MISTAKES_MAX
        if rests:
            self.rest(transport)
        return rests

    def rest(self, transport: asyncio.Transport) -> None:
        """Read nothing more from a connection that was just refused, until its turn has come.

        One that was refused again meanwhile, as it had sent ahead, rests once more for each.
        """
        transport.pause_reading()  # again, too: others may have resumed it
        if transport in self._resting:
            wakes_at, more = self._resting[transport]
            self._resting[transport] = wakes_at, more + 1
            return
        loop = asyncio.get_running_loop()
        if not self._resting:
            loop.call_later(REST_S, self._wake)
        self._resting[transport] = loop.time() + REST_S, 0

    def _wake(self) -> None:
        """Read again from connections that have rested, but from a few at a time."""
        loop = asyncio.get_running_loop()
        for _ in range(min(WAKES_MAX, len(self._resting))):
            if self._next_wake > loop.time():
                break
            transport, (_, more) = self._resting.popitem(last=False)
            if transport.is_closing():
                continue
            if more:
                self._resting[transport] = loop.time() + REST_S, more - 1
            else:
                transport.resume_reading()
        if self._resting:
            loop.call_later(max(WAKE_S, self._next_wake - loop.time()), self._wake)

    @property
    def _next_wake(self) -> float:
        wakes_at, _ = next(iter(self._resting.values()))
        return wakes_at
