"""The server's clock as a client knows it: a sale opens by that clock, not by the client's. No I/O.

Each answer that names the server's time is a sample. The true time lies within half a round trip of
it, so the sample of the shortest round trip is kept. It is measured against the monotonic clock: a
client whose clock is set meanwhile still knows when the sale opens.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: How far two quartz clocks drift apart in a second: 100 ppm, twice what is usual. An old sample
#: gives way to a new one that is better by now.
DRIFT = 1e-4


class ServerClock:
    """Knows the server's time from samples; without one it is the client's own."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic, self._wall = monotonic, wall
        self._zero_s = wall() - monotonic()
        self._taken_s = 0.0
        self._error_s = float("inf")

    def note(self, sent_s: float, received_s: float, server_s: float, stale_s: float = 0.0) -> None:
        """Take a sample: a request's two times by the monotonic clock, the server's Unix time.

        That time may have been written up to `stale_s` before the request came.
        """
        server_s += stale_s / 2
        error_s = (received_s - sent_s + stale_s) / 2
        if error_s <= self._error_s + DRIFT * (received_s - self._taken_s):
            self._zero_s = server_s - (sent_s + received_s) / 2
            self._taken_s, self._error_s = received_s, error_s

    def now_s(self) -> float:
        """Return the server's time, in Unix seconds."""
        return self._zero_s + self._monotonic()

    @property
    def offset_s(self) -> float:
        """How far the server's clock is ahead of the client's."""
        return self.now_s() - self._wall()

    @property
    def error_s(self) -> float:
        """How far `now_s` may be off; infinite without a sample."""
        return self._error_s + DRIFT * (self._monotonic() - self._taken_s)
