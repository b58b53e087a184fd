"""How long to wait before the next attempt."""

from __future__ import annotations

import random


def backoff_s(attempt: int, *, first_s: float, last_s: float) -> float:
    """Return the wait after the given attempt (1 is the first), doubling from first_s to last_s.

    Those that failed together must not come back together: each waits a random half to whole.
    """
    whole = min(last_s, first_s * 2.0 ** min(attempt - 1, 60))
    return whole * random.uniform(0.5, 1)  # noqa: S311 - no secret
