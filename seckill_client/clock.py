"""The server's clock as a client knows it: a sale opens by that clock, not by the client's. No I/O.

Each answer that names the server's time is a sample: it bounds the difference between the two
clocks from both sides, and the samples together bound it more narrowly. The client's side is the
monotonic clock, so a client whose clock is set meanwhile still knows when the sale opens.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: A sale's `server_time` may be so old: it is written once a second, and may be kept for one more.
SALE_STALE_S = 2.0
#: How far two quartz clocks drift apart in a second: 100 ppm, twice what is usual. So an old sample
#: gives way to new ones.
DRIFT = 1e-4


class ServerClock:
    """Knows the server's time from samples; without one it is the client's own."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic, self._wall = monotonic, wall
        #: Bounds of the server's time less the monotonic time, and when they were found.
        self._least_s, self._most_s = float("-inf"), float("inf")
        self._found_at_s = 0.0
        self._own_s = wall() - monotonic()

    def note(
        self, sent_s: float, received_s: float, server_s: float, *, stale_s: float = 0.0
    ) -> None:
        """Take a sample: a request's two times by the monotonic clock, the server's Unix time.

        That time may have been written up to `stale_s` before the request came.
        """
        least_s, most_s = server_s - received_s, server_s + stale_s - sent_s
        drift_s = DRIFT * (received_s - self._found_at_s)
        low_s = max(least_s, self._least_s - drift_s)
        high_s = min(most_s, self._most_s + drift_s)
        if low_s > high_s:  # the server's clock was set, or the answer is another server's
            low_s, high_s = least_s, most_s
        self._least_s, self._most_s, self._found_at_s = low_s, high_s, received_s

    def now_s(self) -> float:
        """Return the server's time, in Unix seconds."""
        known = self._most_s != float("inf")
        zero_s = (self._least_s + self._most_s) / 2 if known else self._own_s
        return zero_s + self._monotonic()

    @property
    def offset_s(self) -> float:
        """How far the server's clock is ahead of the client's."""
        return self.now_s() - self._wall()

    @property
    def error_s(self) -> float:
        """How far `now_s` may be off; infinite without a sample."""
        drift_s = DRIFT * (self._monotonic() - self._found_at_s)
        return (self._most_s - self._least_s) / 2 + drift_s
