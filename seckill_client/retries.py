"""How long to wait before a call is repeated. No I/O.

Waits are spread at random: clients that were refused in one second do not come back in one.
"""

from __future__ import annotations

import random

#: The first wait where the server names no time; it doubles with each further one.
FIRST_S, MOST_S = 0.25, 4.0
#: Added to a time that the server names. Who was refused by a sale's rate limit has a turn then,
#: which is kept for half a second at least.
LATE_MAX_S = 0.25

#: Not the generator that the forks of a process would share.
_chance = random.SystemRandom()


def wait_s(tried: int, retry_after_s: float | None) -> float:
    """Return the seconds to wait after so many tries: what the server says, or ever longer."""
    if retry_after_s is not None:
        return retry_after_s + _chance.uniform(0, LATE_MAX_S)
    longest_s = min(MOST_S, FIRST_S * 2 ** (tried - 1))
    return _chance.uniform(longest_s / 2, longest_s)


def spread_s(most_s: float) -> float:
    """Return a random time between 0 and `most_s`."""
    return _chance.uniform(0, most_s)
