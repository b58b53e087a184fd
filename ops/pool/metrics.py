"""The figures of each role: its workers' metrics, added up, and what waits in the stores."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from prometheus_client.parser import text_string_to_metric_families

from ops.pool.plan import WorkerDuty
from seckill.health.backlogs import Backlog

#: A worker answers from its event loop, between two batches. One that has not after this long is
#: starting, hangs, or has ended.
SCRAPE = ClientTimeout(total=1.0)
#: Rates are over this long: short enough to show a change, long enough to be no noise.
RATE_WINDOW_S = 5.0

_PREFIX = "seckill_role_"

#: Role -> figure (`in_hand`, `done_total`, …) -> value, of one worker.
WorkerFigures = dict[str, dict[str, float]]


class Figures:
    """Remembers the last figures of each worker: counts survive workers, and rates follow."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._last: dict[int, WorkerFigures] = {}
        #: (role, figure) -> sum over all workers since this manager started.
        self._totals: dict[tuple[str, str], float] = defaultdict(float)
        #: When -> role -> sum of what was done by then.
        self._done: deque[tuple[float, dict[str, float]]] = deque([(time.monotonic(), {})])

    async def scrape(self, workers: Mapping[int, str]) -> dict[int, WorkerFigures | None]:
        """Ask workers (pid -> admin URL); None for one that does not answer."""
        answers = await asyncio.gather(*(self._ask(url) for url in workers.values()))
        found = dict(zip(workers, answers, strict=True))
        for pid, roles in found.items():
            for role, figures in (roles or {}).items():
                last = self._last.get(pid, {}).get(role, {})
                for name in ("done_total", "errors_total"):
                    self._totals[role, name] += figures.get(name, 0) - last.get(name, 0)
        self._last = {pid: found[pid] or self._last.get(pid, {}) for pid in found}
        self._remember()
        return found

    def of_role(
        self,
        role: str,
        duty: WorkerDuty,
        workers: Iterable[WorkerFigures | None],
        backlog: Backlog | None,
        restarts: int,
    ) -> dict[str, Any]:
        """Return the figures of a role, as `seckill pool status --json` shows them."""
        # The other figures of a role that a worker does not run are those of when it last did.
        here = [roles[role] for roles in workers if roles and role in running_roles(roles)]
        in_flight = int(sum(figures.get("in_hand", 0) for figures in here))
        # What is in flight was taken before what waits.
        age_s: float | None = max((f.get("oldest_age_seconds", 0) for f in here), default=0)
        if backlog is not None and not in_flight:
            age_s = backlog.oldest_age_s
        return {
            "role": role,
            "wanted": duty.wanted,
            "running": len(here),
            "paused": duty.paused,
            "min": duty.min,
            "max": duty.max,
            "in_hand": in_flight,
            "rate_per_s": round(self._rate(role), 1),
            "backlog": backlog and backlog.size,
            "oldest_age_s": None if age_s is None else round(age_s, 1),
            "errors": int(self._totals[role, "errors_total"]),
            "restarts": restarts,
            "held": any(figures.get("held") for figures in here),
            "consumers": backlog and backlog.consumers,
            "note": backlog and backlog.note,
        }

    async def _ask(self, admin_url: str) -> WorkerFigures | None:
        try:
            async with self._session.get(f"{admin_url}/metrics", timeout=SCRAPE) as response:
                return parse(await response.text())
        except (ClientError, TimeoutError, ValueError):  # ValueError: another program has that port
            return None

    def _remember(self) -> None:
        now = time.monotonic()
        done = {role: sum_ for (role, name), sum_ in self._totals.items() if name == "done_total"}
        self._done.append((now, done))
        while self._done[0][0] < now - RATE_WINDOW_S:
            self._done.popleft()

    def _rate(self, role: str) -> float:
        (began, first), (ended, last) = self._done[0], self._done[-1]
        if ended == began:
            return 0.0
        return (last.get(role, 0) - first.get(role, 0)) / (ended - began)


def running_roles(worker: WorkerFigures | None) -> list[str]:
    """Return the roles that a worker runs."""
    return [role for role, figures in (worker or {}).items() if figures.get("running")]


def parse(text: str) -> WorkerFigures:
    """Pick the figures of roles out of a worker's metrics.

    A role of several parts has the label `role part`; their figures are added up, ages aside.
    """
    found: WorkerFigures = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(_PREFIX) and not sample.name.endswith("_created"):
                figures = found[sample.labels["role"].partition(" ")[0]]
                name = sample.name.removeprefix(_PREFIX)
                if name == "oldest_age_seconds":
                    figures[name] = max(figures[name], sample.value)
                else:
                    figures[name] += sample.value
    return found
