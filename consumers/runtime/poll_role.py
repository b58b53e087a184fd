"""A role that polls: it calls `run_once`, and the result says when to call it again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from consumers.runtime.activity import ACTIVITY
from consumers.runtime.role import pause, until_available
from seckill import metrics


class Polled(NamedTuple):
    """What one pass of a poller did."""

    done: int
    #: There is more work to do at once.
    more: bool


class PollRole:
    """Calls `run_once` again and again: at once while there is more work, else after a pause."""

    def __init__(
        self,
        name: str,
        run_once: Callable[[], Awaitable[Polled]],
        *,
        idle_s: float,
        busy_s: float | None = None,
        rest_s: float | None = None,
    ) -> None:
        self._name = name
        self._run_once = run_once
        #: The pause after a pass that did nothing, and after one that did something.
        self._idle_s, self._busy_s = idle_s, idle_s if busy_s is None else busy_s
        #: The pause while no role of this process has anything to do.
        self._rest_s = idle_s if rest_s is None else rest_s

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until `stop` is set."""
        in_flight = metrics.ROLE_IN_FLIGHT.labels(self._name)
        polled = Polled(0, more=False)

        async def once() -> None:
            nonlocal polled
            with in_flight.track_inprogress():
                polled = await self._run_once()
            if polled.done:
                ACTIVITY.worked()
                metrics.ROLE_DONE.labels(self._name).inc(polled.done)

        while not stop.is_set():
            await until_available(once, self._name, stop)
            if not polled.more:
                await pause(stop, self._pause_s(polled))

    def _pause_s(self, polled: Polled) -> float:
        if polled.done:
            return self._busy_s
        return self._rest_s if ACTIVITY.is_at_rest() else self._idle_s
