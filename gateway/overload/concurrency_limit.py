"""Load shedding: how many requests may be in flight at once, so that no answer takes long.

By Little's law the requests in flight are the rate times the wait. The machine decides the rate, so
the limit on requests in flight decides the wait. The limit is found by measuring. When it was near
and the mean wait too long for two ticks in a row (one is a hiccup), it shrinks in proportion; when
all was well, it grows by a quarter. After a second without a request it begins anew.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.http.problems import Problem, Refused
from seckill import metrics

#: Time between two adjustments: long enough for some hundred answers, and 20 of them in 2 s.
TICK_S = 0.1
#: The limit never shrinks below this: a store that is slow for a moment must not stop everything.
LEAST = 64
#: Growth in one tick: from LEAST to 500 takes a second.
GROWTH = 1.25
#: Without a request for so long, the limit is forgotten: the next burst would else wait for it to
#: grow, and fill all queues meanwhile.
FORGOTTEN_S = 1.0
#: After this long, a request that was let in and has not begun never will (it was refused before).
EXPECTED_S = 0.02


class ConcurrencyLimit:
    """A bound on requests in flight, at most `most`, for a mean wait of at most `wait_s`."""

    def __init__(self, most: int, wait_s: float) -> None:
        self._most, self._wait_s = most, wait_s
        self._loop = asyncio.get_running_loop()
        self._waits_s, self._answers, self._peak = 0.0, 0, 0
        self._tick_ends = self._loop.time() + TICK_S
        self._was_slow = False
        self._expected = 0
        self.limit = most
        self.in_flight = 0

    @property
    def full(self) -> bool:
        """Tell whether one more would be too many, with those that were let in and not begun."""
        return self.in_flight + self._expected >= self.limit

    def expect(self) -> None:
        """Note a request that was let in and is about to begin."""
        if not self._expected:
            self._loop.call_later(EXPECTED_S, self._forget)
        self._expected += 1

    def arrived(self) -> None:
        """Note that an expected request is there."""
        if self._expected:
            self._expected -= 1

    def begin(self) -> None:
        """Count an expected request as in flight; raise Refused when too many are."""
        self.arrived()
        if self.in_flight >= self.limit:
            metrics.REFUSED_SHED.inc()
            raise Refused(Problem.OVERLOADED)
        self.enter()

    def enter(self) -> None:
        """Count a request as in flight, for which there is room."""
        if not self.in_flight and self._loop.time() > self._tick_ends + FORGOTTEN_S:
            self.limit, self._was_slow = self._most, False
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight

    def end(self, came_at: float) -> None:
        """Count off a request that has its answer, and that came at that time of the loop."""
        self.in_flight -= 1
        now = self._loop.time()
        self._waits_s += now - came_at
        self._answers += 1
        if now >= self._tick_ends:
            self._adjust()
            self._tick_ends = now + TICK_S

    def _adjust(self) -> None:
        mean_s = self._waits_s / self._answers
        # Far below the limit something else is slow, and refusing would not help.
        is_slow = mean_s > self._wait_s and self._peak >= self.limit / 2
        if is_slow and self._was_slow:
            self.limit = max(LEAST, int(self._peak * self._wait_s / mean_s))
        elif not is_slow:
            self.limit = min(self._most, int(self.limit * GROWTH))
        self._was_slow = is_slow
        self._waits_s, self._answers, self._peak = 0.0, 0, self.in_flight

    def _forget(self) -> None:
        self._expected = 0


#: Requests in flight: a crowd of grabs leaves room for other requests, and the other way round.
GRABS_IN_FLIGHT = web.AppKey("grabs_in_flight", ConcurrencyLimit)
OTHERS_IN_FLIGHT = web.AppKey("others_in_flight", ConcurrencyLimit)
