"""When the grabs of an open-loop run are due: as many in any case, spread in different ways."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from seckill.errors import UserMistake

#: The opening of a sale as shares of (time, grabs): a few come early, half of all grab in the
#: tenth of the time after the opening (five times the mean rate), and the rest straggle in.
OPENING = ((0.2, 0.05), (0.1, 0.5), (0.7, 0.45))


class Arrivals(StrEnum):
    """How grabs are spread over the time."""

    #: At the same distance from each other.
    EVEN = "even"
    #: Each independent of the others, as people come: the distances are exponential.
    POISSON = "poisson"
    #: As at an opening, see OPENING.
    SPIKE = "spike"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How many grabs come, and when."""

    rate: float
    seconds: float
    arrivals: Arrivals = Arrivals.EVEN
    seed: int = 1

    def due_times(self) -> list[float]:
        """Return when each grab is due, in seconds after the start, in order, below `seconds`.

        There are rate * seconds of them; of `poisson` about that many, the same for the same seed.
        """
        count = round(self.rate * self.seconds)
        if self.arrivals is Arrivals.EVEN:
            dues = [n * self.seconds / count for n in range(count)]
        elif self.arrivals is Arrivals.POISSON:
            dues = self._poisson()
        else:
            dues = self._spike(count)
        if not dues:
            raise UserMistake("no grab falls into the time; raise --rate or --seconds")
        return dues

    def _poisson(self) -> list[float]:
        chance = random.Random(self.seed)  # noqa: S311 - no secret
        dues = [chance.expovariate(self.rate)]
        while dues[-1] < self.seconds:
            dues.append(dues[-1] + chance.expovariate(self.rate))
        return dues[:-1]

    def _spike(self, count: int) -> list[float]:
        dues: list[float] = []
        begin_s = due_share = 0.0
        for time_share, grab_share in OPENING:
            due_share += grab_share
            part, part_s = round(due_share * count) - len(dues), time_share * self.seconds
            dues += [begin_s + n * part_s / part for n in range(part)]
            begin_s += part_s
        return dues
