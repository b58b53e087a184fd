"""Looks at the stores again and again, so that what is asked about them is known already.

Each look has a task and a time limit of its own: one that hangs holds up no other. A look whose
time is up counts as failed at that moment, even if its client does not let go of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from seckill import metrics
from seckill.adapters.failures import store_failure
from seckill.errors import TimedOut
from seckill.outages import OUTAGES, STORE_NAMES

#: Between two looks at a store. Balancers look each second or so, and a look costs a process and a
#: store about a millisecond.
EVERY_S = 1.0
#: Longest wait for looks that were cancelled: a client may first tell a store, which hangs.
END_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """One thing to look at."""

    name: str
    #: What a reason calls it: `PostgreSQL`.
    title: str
    #: Returns when all is well; raises a failure of the store otherwise.
    ask: Callable[[], Awaitable[None]]
    timeout_s: float
    every_s: float = EVERY_S


@dataclass(slots=True)
class _LastLook:
    look: Look
    #: Why it failed; None: all was well.
    reason: str | None = None
    #: By the monotonic clock: when the look under way began, and the last one that found all well.
    began_at: float | None = None
    well_at: float = float("-inf")
    #: Set when the first look has ended.
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def reason_now(self) -> str | None:
        """Return why it is not well, judging a look under way by its time limit."""
        overdue = (
            self.began_at is not None and time.monotonic() - self.began_at > self.look.timeout_s
        )
        if overdue:
            return _silence(self.look)
        if not self.ended.is_set():
            return f"{self.look.title} has not been looked at yet"
        return self.reason


class HealthWatch:
    """Looks at everything on its own, and says at any time how it stands."""

    def __init__(self, looks: Sequence[Look]) -> None:
        self._last = {look.name: _LastLook(look) for look in looks}

    @property
    def names(self) -> list[str]:
        """Return the names of all that is looked at."""
        return list(self._last)

    def reasons(self) -> dict[str, str]:
        """Return why things are not well, by name; nothing for what is well. It never waits."""
        found = {name: last.reason_now() for name, last in self._last.items()}
        return {name: reason for name, reason in found.items() if reason is not None}

    def well_at(self, name: str) -> float:
        """Return when the last look began that found all well, by the monotonic clock.

        What is not looked at, and is known to fail all the same, was never seen well.
        """
        return self._last[name].well_at if name in self._last else float("-inf")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look on inside the block, which begins when each was looked at, or its time was up."""
        tasks = [
            asyncio.create_task(self._look_on(last), name=f"look at {name}")
            for name, last in self._last.items()
        ]
        for name in self._last.keys() & STORE_NAMES.keys():
            metrics.STORE_WORKS.labels(name).set_function(partial(self._works, name))
        try:
            with OUTAGES.watching(self._last):
                await asyncio.gather(*(_first(last) for last in self._last.values()))
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=END_S)

    def _works(self, name: str) -> bool:
        return self._last[name].reason_now() is None

    async def _look_on(self, last: _LastLook) -> None:
        while True:
            last.began_at = began_at = time.monotonic()
            reason = await _reason_of(last.look, was_well=last.reason is None)
            if reason is None:
                last.well_at = began_at
                OUTAGES.found_well(last.look.name, began_at)
            last.reason, last.began_at = reason, None
            last.ended.set()
            rests_at = time.monotonic()
            await asyncio.sleep(last.look.every_s)
            late_s = time.monotonic() - rests_at - last.look.every_s
            metrics.LOOP_LAG_SECONDS.labels().observe(max(late_s, 0.0))


async def _first(last: _LastLook) -> None:
    try:
        await asyncio.wait_for(last.ended.wait(), last.look.timeout_s)
    except TimeoutError:
        return  # its reason says so


async def _reason_of(look: Look, *, was_well: bool) -> str | None:
    """Look, and return why it failed; a failure is noted like one of the work itself."""
    try:
        async with asyncio.timeout(look.timeout_s):
            await look.ask()
    except TimeoutError:
        if look.name in STORE_NAMES:
            OUTAGES.failed(TimedOut(_silence(look), store=look.name))
        return _silence(look)
    except Exception as error:
        if failure := store_failure(error, look.name):
            OUTAGES.failed(failure)
            return str(failure)
        if was_well:
            log.exception("the look at %s has a bug", look.title)
        return f"{look.title} cannot be looked at: {error!r}"
    return None


def _silence(look: Look) -> str:
    return f"{look.title} does not answer within {look.timeout_s:g} s"
