"""How each role fares: what its workers say, added up, beside what waits for it in the stores."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import TypedDict

from aiohttp import ClientError, ClientSession, ClientTimeout
from prometheus_client.parser import text_string_to_metric_families

from ops.pool.backlogs import Backlog
from ops.pool.plan import WorkerDuty

#: A worker answers from a thread of its own; one that is not there after this long is starting,
#: hangs, or is gone.
SCRAPE = ClientTimeout(total=1.0)
#: Rates are over this long: short enough to show a change, long enough to be no noise.
RATE_WINDOW_S = 5.0

_PREFIX = "seckill_role_"

#: Role -> figure (`in_hand`, `done_total`, …) -> value, as one worker says.
Said = dict[str, dict[str, float]]


class RoleFigures(TypedDict):
    """One role, in `seckill pool status --json`."""

    role: str
    wanted: int
    running: int
    paused: bool
    min: int | None
    max: int | None
    in_hand: int
    rate_per_s: float
    backlog: int | None
    oldest_age_s: float | None
    errors: int
    restarts: int
    held: bool
    consumers: int | None
    note: str | None


class Figures:
    """Remembers what each worker said last, so that counts survive workers and rates come out."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._said: dict[int, Said] = {}
        #: (role, figure) -> sum over all workers since this manager started.
        self._totals: dict[tuple[str, str], float] = defaultdict(float)
        #: When -> role -> sum of what was done by then.
        self._done: deque[tuple[float, dict[str, float]]] = deque([(time.monotonic(), {})])

    async def scrape(self, workers: Mapping[int, str]) -> dict[int, Said | None]:
        """Ask workers (pid -> admin URL); None for one that does not answer."""
        answers = await asyncio.gather(*(self._ask(url) for url in workers.values()))
        said = dict(zip(workers, answers, strict=True))
        for pid, roles in said.items():
            for role, figures in (roles or {}).items():
                last = self._said.get(pid, {}).get(role, {})
                for name in ("done_total", "errors_total"):
                    self._totals[role, name] += figures.get(name, 0) - last.get(name, 0)
        self._said = {pid: said[pid] or self._said.get(pid, {}) for pid in said}
        self._remember()
        return said

    def of_role(
        self,
        role: str,
        duty: WorkerDuty,
        said: Iterable[Said | None],
        backlog: Backlog | None,
        restarts: int,
    ) -> RoleFigures:
        """Compose the figures of a role."""
        # What a worker says of a role that it does not run was so before.
        here = [roles[role] for roles in said if roles and role in running_roles(roles)]
        in_hand = int(sum(figures.get("in_hand", 0) for figures in here))
        # What is in hand was taken before what waits.
        age_s: float | None = max((f.get("oldest_age_seconds", 0) for f in here), default=0)
        if backlog is not None and not in_hand:
            age_s = backlog.oldest_age_s
        return RoleFigures(
            role=role,
            wanted=duty.wanted,
            running=len(here),
            paused=duty.paused,
            min=duty.min,
            max=duty.max,
            in_hand=in_hand,
            rate_per_s=round(self._rate(role), 1),
            backlog=backlog.size if backlog else None,
            oldest_age_s=None if age_s is None else round(age_s, 1),
            errors=int(self._totals[role, "errors_total"]),
            restarts=restarts,
            held=any(figures.get("held") for figures in here),
            consumers=backlog.consumers if backlog else None,
            note=backlog.note if backlog else None,
        )

    async def _ask(self, admin_url: str) -> Said | None:
        try:
            async with self._session.get(f"{admin_url}/metrics", timeout=SCRAPE) as response:
                return parse(await response.text())
        except (ClientError, TimeoutError, ValueError):  # ValueError: a stranger at that port
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


def running_roles(said: Said | None) -> list[str]:
    """Return the roles that a worker says it runs."""
    return [role for role, figures in (said or {}).items() if figures.get("running")]


def parse(text: str) -> Said:
    """Pick the figures of roles out of a worker's metrics.

    A role of several parts says `role part`; their figures are added up, ages aside.
    """
    said: Said = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(_PREFIX) and not sample.name.endswith("_created"):
                figures = said[sample.labels["role"].partition(" ")[0]]
                name = sample.name.removeprefix(_PREFIX)
                if name == "oldest_age_seconds":
                    figures[name] = max(figures[name], sample.value)
                else:
                    figures[name] += sample.value
    return said
