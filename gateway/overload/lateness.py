"""How long bytes have waited to be read: a wait that no clock of a request sees.

Under overload requests wait in their sockets. Who is served then was in time long ago, and has
perhaps left. The kernel knows how long ago bytes came (TCP_INFO), to the millisecond, but asking it
takes a twentieth of what a grab takes. So it is asked only while the event loop is late.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

#: Bytes that have waited longer are refused rather than served. With the wait to be accepted before
#: it, and script and publish behind it, an answer takes a quarter of a second at the most.
LATE_S = 0.1
#: `tcpi_last_data_recv` in `struct tcp_info`: milliseconds since bytes came.
_LAST_DATA_RECEIVED = slice(52, 56)


class Lateness:
    """The turns of an event loop whose clock stands still within a turn, as uvloop's does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: When this turn began, and the one before it in which bytes were read.
        self._turn_at = self._before_at = loop.time()

    def of(self, transport: asyncio.BaseTransport) -> float:
        """Return for how many seconds bytes that are read now have waited; 0.0 if hardly at all."""
        turn_at = self._loop.time()
        if turn_at != self._turn_at:
            self._before_at, self._turn_at = self._turn_at, turn_at
        # What is read in this turn came after the last one had read.
        if time.monotonic() - self._before_at < LATE_S:
            return 0.0
        connected: socket.socket = transport.get_extra_info("socket")
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.stop)
        return int.from_bytes(info[_LAST_DATA_RECEIVED], sys.byteorder) / 1000
