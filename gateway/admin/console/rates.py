"""Rates of the installation, from the counts that its processes report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from seckill.registry.processes import ProcessState

#: Prefix of a count -> what it counts.
GRAB, WAIT, REFUSED = "grab:", "wait:", "refused:"
#: Refused by a rate limit, which an operator set; the others are shed because there is too much.
LIMIT = "limit"


@dataclass(slots=True)
class _Reported:
    """The last report of a process, and the rates since the one before it."""

    at: float
    cpu_s: float
    counts: Mapping[str, float]
    per_s: dict[str, float] = field(default_factory=dict)
    #: Of one core.
    cpu: float | None = None


class Rates:
    """What happens in a second, in each process and in all of them."""

    def __init__(self) -> None:
        self._last: dict[str, _Reported] = {}

    def learn(self, states: Iterable[ProcessState]) -> None:
        """Take the reports of all processes that are there; forget those that are not."""
        found = {state.process_id: self._after(state) for state in states}
        self._last = found

    def cpu_of(self, process_id: str) -> float | None:
        """Return the share of a core that a process uses; None before its second report."""
        reported = self._last.get(process_id)
        return None if reported is None else reported.cpu

    def shown(self) -> dict[str, object]:
        """Return grabs a second by verdict, the waits, and the share that was shed."""
        sums: dict[str, float] = defaultdict(float)
        for reported in self._last.values():
            for name, rate in reported.per_s.items():
                sums[name] += rate
        grabs = {n.removeprefix(GRAB): round(r, 1) for n, r in sums.items() if n.startswith(GRAB)}
        refused = {n.removeprefix(REFUSED): r for n, r in sums.items() if n.startswith(REFUSED)}
        grabs["rate_limited"] = round(refused.pop(LIMIT, 0.0), 1)
        shed = sum(refused.values())
        asked = sum(grabs.values()) + shed
        waits = {_bounds_of(name): r for name, r in sums.items() if name.startswith(WAIT)}
        return {
            "grabs": grabs,
            "shed_per_s": round(shed, 1),
            "shed_share": round(shed / asked, 4) if asked else 0.0,
            "p50_ms": quantile_ms(waits, 0.5),
            "p99_ms": quantile_ms(waits, 0.99),
        }

    def grabs_per_s(self) -> float:
        """Return all grabs a second that got as far as the sale."""
        rates = (reported.per_s.items() for reported in self._last.values())
        return sum(rate for each in rates for name, rate in each if name.startswith(GRAB))

    def _after(self, state: ProcessState) -> _Reported:
        last = self._last.get(state.process_id)
        if last is not None and last.at == state.at:
            return last  # nothing new
        reported = _Reported(state.at, state.cpu_s, dict(state.counts))
        if last is not None and state.at > last.at:
            passed_s = state.at - last.at
            reported.cpu = max(0.0, (state.cpu_s - last.cpu_s) / passed_s)
            reported.per_s = {
                name: max(0.0, (count - last.counts.get(name, 0.0)) / passed_s)
                for name, count in state.counts.items()
            }
        return reported


def quantile_ms(buckets: Mapping[tuple[float, float], float], share: float) -> float | None:
    """Return the wait in milliseconds that `share` of the grabs stayed under; None without grabs.

    `buckets` has the bounds of a bucket in seconds -> how many waits were in it. They count as
    evenly spread in it, as Prometheus has it, and those beyond the last bound as that bound.
    """
    wanted, below = share * sum(buckets.values()), 0.0
    if wanted <= 0:
        return None
    for (low, high), inside in sorted(buckets.items()):
        if inside and below + inside >= wanted:
            part = 0.0 if high == float("inf") else (wanted - below) / inside
            return round((low + (high - low) * part if part else low) * 1000, 1)
        below += inside
    return round(max(low for low, _ in buckets) * 1000, 1)  # the sum was rounded


def _bounds_of(name: str) -> tuple[float, float]:
    low, _, high = name.removeprefix(WAIT).partition("-")
    return float(low), float(high)
