"""Every wait before another attempt: it doubles up to a limit, and no two are alike."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Doublings of any wait: enough to reach every limit, few enough for a float.
_DOUBLINGS_MAX = 60


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_s` to `last_s`, each a random share of that."""

    first_s: float
    last_s: float
    shares: tuple[float, float] = (0.5, 1.0)

    def wait_s(self, attempt: int) -> float:
        """Return the wait after the given attempt; 1 is the first."""
        whole_s = min(self.last_s, self.first_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))
        return jittered(whole_s, self.shares)


def jittered(wait_s: float, shares: tuple[float, float]) -> float:
    """Return a random share of a wait: what failed together must not come back together."""
    return wait_s * random.uniform(*shares)  # noqa: S311 - no secret
