"""Outages of the stores: each is logged once, with its causes, and once when it is over.

An outage begins with a failure. It is over when three things are so: the store has worked since the
last failure, nothing waits for it, and nothing has failed for a while. A store that reads and does
not write fails only now and then, and must not be called well in between. So in a process that
looks at a store, only a look that found all well counts as work: it tries the writes, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from seckill import metrics
from seckill.errors import BrokenSale, Unavailable

#: The card provider counts as a store, too.
PROVIDER = "provider"
#: What `Unavailable.store` may be, with the name for people.
STORE_NAMES: Mapping[str, str] = {
    "redis": "Redis",
    "rabbitmq": "RabbitMQ",
    "postgresql": "PostgreSQL",
    PROVIDER: "The card provider",
    "": "Something",
}

#: Without a failure for so long, an outage is over. A role that is held fails every 4 s: a pause of
#: 2 s, and a statement that times out after 2 s.
QUIET_S = 5.0
#: The same where the last outage had this cause and is younger: it was not over, only seldom asked.
RELAPSE_S = 60.0
#: A look that comes so late says that the process stood still.
LATE_S = 1.0
#: Causes logged in one outage. A store that is restarted is at first gone, then loading, say.
CAUSES_MAX = 20

#: Codes of PostgreSQL for a function, table or column that is missing: what a look at the store
#: reports as another schema.
SAME_CAUSE: Mapping[str, str] = dict.fromkeys(("42883", "42P01", "42703"), "schema")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outage:
    """One store's; times by the monotonic clock."""

    began_at: float
    quiet_s: float
    failed_at: float = 0.0
    worked_at: float = 0.0
    #: The causes that were logged: codes of the store, "" for no answer.
    logged: set[str] = field(default_factory=set)
    #: The next look whether it is over.
    look: asyncio.TimerHandle | None = None


class Outages:
    """The outages of one process."""

    def __init__(self) -> None:
        #: A process that has not started yet, or a command, reports a failure in its own way.
        self.logs = False
        self._now: dict[str, Outage] = {}
        #: The last outage of each store that is over.
        self._last: dict[str, Outage] = {}
        #: Stores that this process looks at.
        self._watched: frozenset[str] = frozenset()
        #: What waits for a store, such as a role whose batch is held.
        self._waiting: dict[object, str] = {}

    def failed(self, failure: Unavailable) -> None:
        """Count a failure, once, and log its cause if that is new."""
        if failure.noted:
            return
        failure.noted = True
        store, now = failure.store, time.monotonic()
        cause = SAME_CAUSE.get(failure.code, failure.code)
        metrics.STORE_FAILURES.labels(store or "other", failure.kind.value).inc()
        if store not in self._now:
            last = self._last.get(store)
            relapsed = last and cause in last.logged and now - last.failed_at < RELAPSE_S
            self._now[store] = Outage(now, RELAPSE_S if relapsed else QUIET_S)
        outage = self._now[store]
        outage.failed_at = now
        if self.logs and cause not in outage.logged and len(outage.logged) < CAUSES_MAX:
            outage.logged.add(cause)
            log.warning("%s", failure)

    def worked(self, store: str) -> None:
        """Note that a store has done something; cheap while it has no outage."""
        if self._now and store not in self._watched:
            self._worked(store, time.monotonic())

    def found_well(self, store: str, looked_at: float) -> None:
        """Note that a look at a store, begun at `looked_at`, has found all well."""
        self._worked(store, looked_at)

    @contextmanager
    def watching(self, stores: Iterable[str]) -> Iterator[None]:
        """Let looks alone say that these stores work, inside the block."""
        self._watched = frozenset(stores)
        try:
            yield
        finally:
            self._watched = frozenset()

    def wait_for(self, store: str, who: object) -> None:
        """Note that something waits for a store, until `go_on`."""
        self._waiting[who] = store

    def go_on(self, who: object) -> None:
        """Note that something does not wait any longer."""
        self._waiting.pop(who, None)

    def _worked(self, store: str, at: float) -> None:
        if outage := self._now.get(store):
            outage.worked_at = max(outage.worked_at, at)
            if outage.look is None:
                self._look_later(store, outage, outage.quiet_s)

    def _look_later(self, store: str, outage: Outage, wait_s: float) -> None:
        due, loop = time.monotonic() + wait_s, asyncio.get_running_loop()
        outage.look = loop.call_later(wait_s, self._look, store, outage, due)

    def _look(self, store: str, outage: Outage, due: float) -> None:
        """End an outage that is over, or look again later."""
        outage.look, now = None, time.monotonic()
        if outage.worked_at < outage.failed_at:
            return  # the next success looks again
        left_s = outage.failed_at + outage.quiet_s - now
        # While this process stood still, nothing could fail.
        stood_still = now - due > LATE_S
        if stood_still or store in self._waiting.values():
            left_s = max(left_s, QUIET_S)
        if left_s > 0:
            self._look_later(store, outage, left_s)
            return
        del self._now[store]
        self._last[store] = outage
        if outage.logged:
            lasted_s = outage.failed_at - outage.began_at
            log.warning("%s works again: it failed for %.1f s", STORE_NAMES[store], lasted_s)


def summary_of(failure: Unavailable) -> str:
    """Return which store failed and its code, fit for anyone: no address, no name of a user."""
    if isinstance(failure, BrokenSale):
        return "Redis holds something of this sale that cannot be read"
    if not failure.store:
        return ""
    said = f"refuses: {failure.code}" if failure.code else "does not answer"
    return f"{STORE_NAMES[failure.store]} {said}"


#: Of this process: every adapter reports to it.
OUTAGES = Outages()
