"""How many processes a role needs, judged by its backlog and the age of its oldest message.

The count grows fast and shrinks slowly, and between "too much" and "nothing to do" it stays as it
is: a count that followed each reading would start and stop processes all day.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Too much to do: something waits longer than this. Buyers poll each half second at first, so by
#: then a buyer has read "queued" some four times.
GROW_AGE_S = 2.0
#: Nothing to do: what little there is has just come.
CALM_AGE_S = 0.5
#: Readings in a row before the count changes. Two: a crowd must not wait, a single slow batch is no
#: reason. Fifteen: a process that is needed again in half a minute is cheaper kept than started.
GROW_AFTER, SHRINK_AFTER = 2, 15


@dataclass(frozen=True, slots=True)
class Reading:
    """The load of a role. None: a store that would know is unavailable."""

    backlog: int | None
    oldest_age_s: float | None
    #: The role waits for a store; more processes would only wait with it.
    held: bool = False


@dataclass(frozen=True, slots=True)
class Trend:
    """How many readings in a row were alike."""

    busy: int = 0
    calm: int = 0


def decide(wanted: int, low: int, high: int, reading: Reading, trend: Trend) -> tuple[int, Trend]:
    """Return how many are wanted from now on, between the bounds, and the new trend.

    Twice as many when there is too much to do, one less when there is nothing.
    """
    if reading.backlog is None or reading.oldest_age_s is None or reading.held:
        return wanted, Trend()
    if reading.backlog and reading.oldest_age_s >= GROW_AGE_S:
        trend = Trend(busy=trend.busy + 1)
    elif reading.oldest_age_s <= CALM_AGE_S:
        trend = Trend(calm=trend.calm + 1)
    else:
        trend = Trend()
    if trend.busy >= GROW_AFTER:
        return min(max(2 * wanted, 1), high), Trend()
    if trend.calm >= SHRINK_AFTER:
        return max(wanted - 1, low), Trend()
    return wanted, trend
