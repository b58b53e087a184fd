"""When to poll again: `next_poll_ms` grows with the waiting crowd, so that polling is no attack.

Each answer that asks a buyer to poll again gives an appointment, and appointments are no closer
together than the budget allows: polls arrive at the budget's rate, however many buyers wait. A
waiting buyer has exactly one appointment, so this is "waiting buyers / budget" without counting
them. Nothing has to be taken back: a buyer whose wait has ended, or who leaves, takes no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

#: A consumer needs some milliseconds; a first look after half a second nearly always finds the row.
LEAST_S = 0.5
#: Longer, and people press "reload". With more than this times the budget waiting, polls do come
#: faster than the budget.
MOST_S = 15.0


class PollSchedule:
    """Gives appointments, `per_s` a second, for so little that each accepted grab can have one.

    Each process gives its own: a crowd that is spread over processes polls spread over them.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s = 1 / per_s
        self._clock = clock
        self._free_at = float("-inf")

    def next_poll_ms(self) -> int:
        """Give the next free appointment, LEAST_S to MOST_S from now."""
        now = self._clock()
        wait_s = self._free_at - now
        if wait_s < LEAST_S:
            wait_s = LEAST_S
        elif wait_s > MOST_S:
            wait_s = MOST_S
        self._free_at = now + wait_s + self._gap_s
        return int(wait_s * 1000)


POLL_SCHEDULE = web.AppKey("poll_schedule", PollSchedule)
