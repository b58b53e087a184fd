"""Grabs for which there was no room: the newest is served first, the oldest is refused first.

With more grabs than can be served, each refusal at once would cost time in which others are served,
and a client that asks again at once would get the next one. So a grab without room waits here. When
there is room again, the newest goes on: its buyer has waited least. What has waited for too long is
refused, oldest first, as fast as a part of the process's time allows. Others call this an adaptive
LIFO (https://queue.acm.org/detail.cfm?id=2839461).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from gateway.overload.lateness import LATE_S

#: Time between two looks while grabs wait: a batch of the script takes some milliseconds.
LOOK_S = 0.002
#: The part of the time that refusals may take; the rest is for those who are served.
REFUSING_SHARE = 0.25


class Overflowing(Protocol):
    """A connection whose grab waits for room."""

    #: When its grab came, in the loop's time.
    came_at: float

    def go_on(self) -> None:
        """Serve the grab: there is room."""

    def turn_away(self) -> None:
        """Refuse the grab: it has waited for too long."""


class OverflowQueue:
    """The grabs of one process that wait for room."""

    def __init__(self, is_full: Callable[[], bool]) -> None:
        self._is_full = is_full
        self._loop = asyncio.get_running_loop()
        #: In the order in which they came.
        self._waiting: OrderedDict[Overflowing, None] = OrderedDict()
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, connection: Overflowing) -> None:
        """Let a grab wait: exactly one of its two methods is called, unless it is discarded."""
        if not self._waiting:
            self._looked_at = time.monotonic()
            self._loop.call_later(LOOK_S, self._look)
        self._waiting[connection] = None

    def discard(self, connection: Overflowing) -> None:
        """Forget a grab, if it waits: its connection is gone."""
        self._waiting.pop(connection, None)

    def turn_all_away(self) -> None:
        """Refuse whatever waits: the process stops."""
        while self._waiting:
            self._waiting.popitem()[0].turn_away()

    def _look(self) -> None:
        began = time.monotonic()
        earliest = self._loop.time() - LATE_S
        while self._waiting and not self._is_full():
            newest, _ = self._waiting.popitem()
            if newest.came_at < earliest:  # and so are all others
                newest.turn_away()
                break
            newest.go_on()
        ends = time.monotonic() + REFUSING_SHARE * (began - self._looked_at)
        self._looked_at = began
        while self._waiting:
            oldest = next(iter(self._waiting))
            if oldest.came_at >= earliest:
                break
            del self._waiting[oldest]
            oldest.turn_away()
            if time.monotonic() >= ends:
                break
        if self._waiting:
            self._loop.call_later(LOOK_S, self._look)
