"""Percentiles of latencies, and their course over the time of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hdrh.histogram import HdrHistogram

from loadtest.crowd.requests import PlannedRequest

#: Width of a point of the time series: fine enough to see a pause, and some hundred answers each.
BUCKET_S = 0.1
#: Percentiles that are reported.
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

#: Microseconds that are counted, with three digits. More than a minute counts as a minute; the
#: generator gives up long before.
_MIN_US, _MAX_US, _DIGITS = 1, 60_000_000, 3


def time_series(
    requests: Sequence[PlannedRequest], seconds: float, width_s: float = BUCKET_S
) -> list[dict[str, object]]:
    """Part the requests by the moments that they were intended for; empty parts count, too."""
    offered = [0] * max(1, round(seconds / width_s))
    waits: list[dict[int, list[float]]] = [{} for _ in offered]
    for request in requests:
        # 0.3 / 0.1 is a little less than 3; what is due on an edge belongs behind it.
        n = min(int(request.due_s / width_s + 1e-6), len(offered) - 1)
        offered[n] += 1
        if request.status:
            waits[n].setdefault(request.status, []).append(1000 * request.wait_s)
    return [
        {
            "begin_s": round(n * width_s, 3),
            "offered": offered[n],
            "all": _point([wait for of_class in classes.values() for wait in of_class]),
            "classes": {status: _point(of_class) for status, of_class in sorted(classes.items())},
        }
        for n, classes in enumerate(waits)
    ]


def _point(waits_ms: list[float]) -> dict[str, float]:
    """Return what is drawn of some latencies."""
    if not waits_ms:
        return {"count": 0}
    ordered = sorted(waits_ms)
    shares = {name: round(percentile(ordered, SHARES[name]), 3) for name in ("p50", "p99")}
    return {"count": len(ordered), **shares, "max": round(ordered[-1], 3)}


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of them lies; 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def histogram(requests: Iterable[PlannedRequest]) -> HdrHistogram:
    """Count the latencies of requests that have ended."""
    found = HdrHistogram(_MIN_US, _MAX_US, _DIGITS)
    waits_us = (round(1e6 * request.wait_s) for request in requests)
    for wait_us, count in Counter(min(max(_MIN_US, us), _MAX_US) for us in waits_us).items():
        found.record_value(wait_us, count)
    return found


def ms_at(waits: HdrHistogram, share: float) -> float:
    """Return the latency below which a share of them lies; 0 where there are none."""
    if not waits.get_total_count():
        return 0.0
    return float(waits.get_value_at_percentile(100 * share)) / 1000
