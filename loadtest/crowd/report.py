"""What an open-loop run comes to: classes of answers, percentiles, and whether the run is valid.

Latencies count from the intended moment, each class of answers (202, 409, 429, 503 and so on) by
itself: refusals are fast, and would make the accepted look fast, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

from loadtest.findings import Finding, counts_text

#: A generator that takes more of its core than this makes waits of its own, and the figures are
#: not the gateway's. Taken in the busiest second: a spike may be over before the mean shows it.
CPU_SHARE_MAX = 0.8
#: A run whose generator is later than this (99 of 100 requests) is no statement about the gateway.
LATE_MAX_MS = 50.0
#: Width of a point of the time series: fine enough to see a pause, and some hundred answers each.
BUCKET_S = 0.1
#: What the contract lets a grab be answered. Anything else is a mistake of the run, or a fault.
ANSWERS = (200, 202, 403, 409, 410, 429, 503)
#: Percentiles that are reported.
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

#: Microseconds that are counted, with three digits. More than a minute counts as a minute; the
#: generator gives up long before.
_MIN_US, _MAX_US, _DIGITS = 1, 60_000_000, 3


@dataclass(slots=True)
class PlannedRequest:
    """One request: when it is due (seconds after the start), its bytes, and what became of it."""

    due_s: float
    payload: bytes
    #: The buyer comes back once, after the Retry-After of a 429 of at most so many seconds.
    obeys_within_s: float = 0.0
    comes_back: bool = False
    #: When it was found that all connections were taken; 0 when it went out at once.
    queued_s: float = 0.0
    sent_s: float = 0.0
    answered_s: float = 0.0
    #: 0: no answer.
    status: int = 0
    retry_after_s: int = 0

    @property
    def wait_s(self) -> float:
        """The latency of its answer."""
        return self.answered_s - self.due_s


@dataclass(slots=True)
class CrowdReport:
    """A run of `seconds`. Moments are seconds after its start."""

    seconds: float
    requests: list[PlannedRequest] = field(default_factory=list)
    #: (moment, CPU seconds that this process had taken by then), until the last request was due.
    cpu_notes: list[tuple[float, float]] = field(default_factory=list)

    def answers(self) -> Counter[int]:
        """Count the answers by status; 0 is none."""
        return Counter(request.status for request in self.requests)

    def answered(self, *statuses: int) -> list[PlannedRequest]:
        """Return the requests that were answered so; without a status, all that were answered."""
        return [
            request
            for request in self.requests
            if request.status and (not statuses or request.status in statuses)
        ]

    @property
    def offered_per_s(self) -> float:
        """What the schedule asked for."""
        return len(self.requests) / self.seconds

    @property
    def sent_per_s(self) -> float:
        """What went out, over the time that it took."""
        return self._per_s([request.sent_s for request in self.requests if request.sent_s])

    def answered_per_s(self, *statuses: int) -> float:
        """Return what was answered so, or at all, over the time that it took."""
        return self._per_s([request.answered_s for request in self.answered(*statuses)])

    def latency_ms(self, share: float, *statuses: int) -> float:
        """Return a percentile of the latencies of these classes, from intended to answered."""
        return _ms_at(_histogram(self.answered(*statuses)), share)

    def late_ms(self, share: float) -> float:
        """Return a percentile of how late the generator itself was.

        A request that waited for a connection waited for the server: the generator was not late.
        """
        begun = ((request.queued_s or request.sent_s, request.due_s) for request in self.requests)
        late = sorted(begun_s - due_s for begun_s, due_s in begun if begun_s)
        return 1000 * percentile(late, share)

    def cpu_share(self) -> float:
        """Return the CPU time of this process by the time of the run, until the last was due."""
        if len(self.cpu_notes) < 2:
            return 0.0
        (begin_s, before_s), (end_s, after_s) = self.cpu_notes[0], self.cpu_notes[-1]
        return (after_s - before_s) / (end_s - begin_s)

    def busiest_cpu_share(self, span_s: float = 1.0) -> float:
        """Return the largest such share of any span of so many seconds, or of a shorter run."""
        busiest, begins = 0.0, iter(self.cpu_notes)
        begin = next(begins, (0.0, 0.0))
        for end_s, after_s in self.cpu_notes:
            while end_s - begin[0] >= span_s:
                busiest = max(busiest, (after_s - begin[1]) / (end_s - begin[0]))
                begin = next(begins)
        return max(busiest, self.cpu_share())

    @property
    def valid(self) -> bool:
        """Whether the generator kept up, so that the figures are the gateway's."""
        return self.late_ms(0.99) < LATE_MAX_MS and self.busiest_cpu_share() <= CPU_SHARE_MAX

    def answers_finding(self, *allowed: int) -> Finding:
        """Return the answers, and the finding that no others came than are allowed."""
        counts, names = {}, [str(status) for status in allowed]
        for status, count in self.answers().items():
            counts[str(status or "no answer")] = count
        promised = f"{', '.join(names)} alone"
        return Finding("answers", counts_text(counts), promised, counts.keys() <= set(names))

    def late_finding(self) -> Finding:
        """Return the finding that the generator kept its own schedule."""
        late_ms = self.late_ms(0.99)
        text, promised = f"p99 {late_ms:.1f} ms late", f"under {LATE_MAX_MS:g} ms"
        return Finding("generator", text, promised, late_ms < LATE_MAX_MS)

    def findings(self) -> list[Finding]:
        """Return all that is to be reported of the run."""
        offered, busiest = len(self.requests), self.busiest_cpu_share()
        rates = f"{self.sent_per_s:,.0f}/s sent, {self.answered_per_s():,.0f}/s answered"
        queued = sum(1 for request in self.requests if request.queued_s)
        cpu = f"{self.cpu_share():.0%} of a core, {busiest:.0%} in its busiest second"
        found = [
            Finding("offered", f"{offered:,} grabs, {self.offered_per_s:,.0f}/s"),
            Finding("achieved", rates),
            self.answers_finding(*ANSWERS),
        ]
        for status, figures in self._latencies().items():
            text = ", ".join(f"{name} {ms:.1f}" for name, ms in figures.items())
            found.append(Finding(f"wait for a {status}, ms", text))
        limit = f"at most {CPU_SHARE_MAX:.0%}"
        found += [
            Finding("waited for a free connection", f"{queued:,} of {offered:,}"),
            self.late_finding(),
            Finding("generator's CPU", cpu, limit, busiest <= CPU_SHARE_MAX),
        ]
        if not self.valid:
            advice = "the generator did not keep up; offer less, or give it a core of its own"
            found.append(Finding("this run", f"INVALID: {advice}", "valid", False))
        return found

    def plain(self) -> dict[str, object]:
        """Return figures and time series for JSON."""
        return {
            "seconds": self.seconds,
            "offered": len(self.requests),
            "offered_per_s": round(self.offered_per_s, 1),
            "sent_per_s": round(self.sent_per_s, 1),
            "answered_per_s": round(self.answered_per_s(), 1),
            "told": dict(sorted(self.answers().items())),
            "latency_ms": self._latencies(),
            "valid": self.valid,
            "generator": {
                "late_p99_ms": round(self.late_ms(0.99), 3),
                "cpu_share": round(self.cpu_share(), 3),
                "busiest_cpu_share": round(self.busiest_cpu_share(), 3),
            },
            "bucket_s": BUCKET_S,
            "buckets": time_series(self.requests, self.seconds),
        }

    def _per_s(self, moments: list[float]) -> float:
        return len(moments) / max(self.seconds, max(moments, default=0.0))

    def _latencies(self) -> dict[int, dict[str, float]]:
        """Return status -> percentiles in ms."""
        found = {}
        for status in sorted(self.answers().keys() - {0}):
            waits = _histogram(self.answered(status))
            shares = {name: _ms_at(waits, share) for name, share in SHARES.items()}
            found[status] = shares | {"max": _ms_at(waits, 1)}
        return found


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


def _histogram(requests: Sequence[PlannedRequest]) -> HdrHistogram:
    found = HdrHistogram(_MIN_US, _MAX_US, _DIGITS)
    waits_us = (round(1e6 * request.wait_s) for request in requests)
    for wait_us, count in Counter(min(max(_MIN_US, us), _MAX_US) for us in waits_us).items():
        found.record_value(wait_us, count)
    return found


def _ms_at(waits: HdrHistogram, share: float) -> float:
    if not waits.get_total_count():
        return 0.0
    return float(waits.get_value_at_percentile(100 * share)) / 1000
