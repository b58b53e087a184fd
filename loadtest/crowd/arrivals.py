"""When the grabs of an open-loop run are due: the same number of them, spread in different ways."""

from __future__ import annotations

import random
from enum import StrEnum

#: The opening of a sale as shares of (time, grabs): a few come early, half of all press in the
#: tenth of the time after the opening (five times the mean rate), and the rest straggle in.
OPENING = ((0.2, 0.05), (0.1, 0.5), (0.7, 0.45))


class Arrivals(StrEnum):
    """How grabs are spread over the time."""

    #: At the same distance from each other.
    EVEN = "even"
    #: Each without regard to the others, as people come: the distances are exponential.
    POISSON = "poisson"
    #: As at an opening, see OPENING.
    SPIKE = "spike"


def due_times(arrivals: Arrivals, rate: float, seconds: float, *, seed: int = 1) -> list[float]:
    """Return when each grab is due, in seconds after the start, in order, all below `seconds`.

    There are rate * seconds of them; of `poisson` about that many, the same for the same seed.
    """
    if arrivals is Arrivals.POISSON:
        return _poisson(rate, seconds, random.Random(seed))  # noqa: S311 - no secret
    count = round(rate * seconds)
    if arrivals is Arrivals.EVEN:
        return _evenly(0.0, seconds, count)
    dues: list[float] = []
    begin_s = due_share = 0.0
    for time_share, grab_share in OPENING:
        due_share += grab_share
        part = round(due_share * count) - len(dues)
        dues += _evenly(begin_s, time_share * seconds, part)
        begin_s += time_share * seconds
    return dues


def _evenly(begin_s: float, seconds: float, count: int) -> list[float]:
    return [begin_s + n * seconds / count for n in range(count)]


def _poisson(rate: float, seconds: float, chance: random.Random) -> list[float]:
    dues: list[float] = []
    due_s = chance.expovariate(rate)
    while due_s < seconds:
        dues.append(due_s)
        due_s += chance.expovariate(rate)
    return dues
