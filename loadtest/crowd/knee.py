"""Finds the knee of a server: the highest rate at which nearly all have a good answer.

knee = await find_knee(trial, 202)
knee.per_s, knee.text()

`trial(rate)` offers so many requests a second for a short time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadtest.crowd.report import CrowdReport

#: Share of the offered that has to be answered as expected, and well.
GOOD_SHARE = 0.99
FIRST_RATE = 1_000.0
#: Steps between the last rate that was reached and the first that was not: a 16th of them.
HALVINGS = 4
#: A rate that is not reached is tried again: a shared machine pauses now and then.
TRIES = 2


@dataclass(frozen=True, slots=True)
class Knee:
    """The highest rate that was reached; 0 for none."""

    per_s: float
    #: Whether the generator did not keep up with the next one, so that the knee may lie higher.
    generator_was_late: bool

    def text(self) -> str:
        """Return it for a table."""
        least = "at least " if self.generator_was_late else ""
        note = " (the generator could not offer more)" if self.generator_was_late else ""
        return f"{least}{self.per_s:,.0f}/s{note}"


async def find_knee(trial: Callable[[float], Awaitable[CrowdReport]], *statuses: int) -> Knee:
    """Double the rate until it is not reached, and then halve the step."""
    low, high, late = 0.0, FIRST_RATE, False

    async def is_reached(rate: float) -> bool:
        nonlocal late
        for _ in range(TRIES):
            report = await trial(rate)
            if report.goodput_per_s(*statuses) >= GOOD_SHARE * report.offered_per_s:
                return True
        late = not report.valid
        return False

    while await is_reached(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if await is_reached(middle):
            low = middle
        else:
            high = middle
    return Knee(low, late)
