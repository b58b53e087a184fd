"""Whether the roles of this process have anything to do: a process at rest polls less often."""

from __future__ import annotations

import time
from collections.abc import Callable

#: The pause of a poller that has a shorter one during a sale.
REST_S = 1.0
#: At rest after so long without work: what one piece of work brings along comes sooner.
REST_AFTER_S = 5.0


class Activity:
    """Remembers when a role last did something."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._worked_at = clock()

    def worked(self) -> None:
        """Note that a role did something."""
        self._worked_at = self._clock()

    def is_at_rest(self) -> bool:
        """Return whether no role did anything for REST_AFTER_S, and no sale changed."""
        return self._clock() - self._worked_at > REST_AFTER_S


#: Of all roles of this process.
ACTIVITY = Activity()
