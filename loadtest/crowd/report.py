"""What an open-loop run comes to: classes of answers, percentiles, and whether it counts at all.

Latencies count from the intended moment, each class of answers (202, 409, 429, 503 and so on) by
itself: refusals are fast, and would make the accepted look so, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

from loadtest.crowd.generator import GeneratorReport, PlannedRequest, percentile
from loadtest.findings import Finding, told_text

#: A generator that takes more of its core than this makes waits of its own, and the figures are
#: not the gateway's. Taken in the busiest second: a spike may be over before the mean shows it.
CPU_SHARE_MAX = 0.8
#: Width of a point of the time series: fine enough to see a pause, and some hundred answers each.
BUCKET_S = 0.1
#: What a grab may truly be told. Anything else is a mistake of the run, or a fault.
ANSWERS = frozenset({200, 202, 403, 409, 410, 429, 503})
#: Percentiles that are reported.
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

#: Microseconds that are counted, with three digits. More than a minute counts as a minute; the
#: generator gives up long before.
_MIN_US, _MAX_US, _DIGITS = 1, 60_000_000, 3


@dataclass(slots=True)
class TimeSlice:
    """The grabs that were intended in one stretch of time."""

    begin_s: float
    offered: int = 0
    #: Status -> latencies in ms, in order. Without those who got no answer.
    waits_ms: dict[int, list[float]] = field(default_factory=dict)

    def plain(self) -> dict[str, object]:
        """Return it for JSON."""
        every = sorted(wait for waits in self.waits_ms.values() for wait in waits)
        return {
            "begin_s": round(self.begin_s, 3),
            "offered": self.offered,
            "all": _point(every),
            "classes": {status: _point(waits) for status, waits in sorted(self.waits_ms.items())},
        }


def buckets(
    shots: Sequence[PlannedRequest], seconds: float, width_s: float = BUCKET_S
) -> list[TimeSlice]:
    """Part the shots by the moments that they were intended for; also where there are none."""
    parted = [TimeSlice(n * width_s) for n in range(max(1, round(seconds / width_s)))]
    for shot in shots:
        # 0.3 / 0.1 is a little less than 3; what is due on an edge belongs behind it.
        bucket = parted[min(int(shot.due_s / width_s + 1e-6), len(parted) - 1)]
        bucket.offered += 1
        if shot.status:
            wait_ms = 1000 * (shot.answered_s - shot.due_s)
            bucket.waits_ms.setdefault(shot.status, []).append(wait_ms)
    for bucket in parted:
        for waits in bucket.waits_ms.values():
            waits.sort()
    return parted


class CrowdReport:
    """A run of `seconds`, with a histogram for each class of answers."""

    def __init__(self, report: GeneratorReport, seconds: float) -> None:
        self.report = report
        self.seconds = seconds
        self.told = report.told()
        self._histograms = _histograms(report.shots)

    @property
    def offered_per_s(self) -> float:
        """What the schedule asked for."""
        return len(self.report.shots) / self.seconds

    @property
    def sent_per_s(self) -> float:
        """What went out, over the time that it took."""
        sent = [shot.sent_s for shot in self.report.shots if shot.sent_s]
        return len(sent) / max(self.seconds, max(sent, default=0.0))

    @property
    def answered_per_s(self) -> float:
        """What was answered, over the time that it took."""
        return self.rate_of(*(status for status in self.told if status))

    @property
    def valid(self) -> bool:
        """Tell whether the generator kept up, so that the figures are the gateway's."""
        late_ms = self.report.late_ms(0.99)
        return late_ms < LATE_MAX_MS and self.report.busiest_cpu_share() <= CPU_SHARE_MAX

    def rate_of(self, *statuses: int) -> float:
        """Return the answers of these classes a second, over the time that they took."""
        answered = [shot.answered_s for shot in self.report.shots if shot.status in statuses]
        return len(answered) / max(self.seconds, max(answered, default=0.0))

    def latency_ms(self, share: float, *statuses: int) -> float:
        """Return a percentile of the latencies of these classes, from intended to answered."""
        merged = _histogram()
        for status in statuses:
            if status in self._histograms:
                merged.add(self._histograms[status])
        return _ms_at(merged, share)

    def findings(self) -> list[Finding]:
        """Return what is to be said of the run."""
        offered, report = len(self.report.shots), self.report
        queued = sum(1 for shot in report.shots if shot.queued_s)
        busiest = report.busiest_cpu_share()
        found = [
            Finding("offered", f"{offered:,} grabs, {self.offered_per_s:,.0f}/s"),
            Finding(
                "achieved", f"{self.sent_per_s:,.0f}/s sent, {self.answered_per_s:,.0f}/s answered"
            ),
            Finding(
                "told", told_text(self.told), "answers to a grab alone", self.told.keys() <= ANSWERS
            ),
            *(self._wait(status) for status in sorted(self._histograms)),
            Finding("waited for a free connection", f"{queued:,} of {offered:,}"),
            generator(report),
            Finding(
                "generator's CPU",
                f"{report.cpu_share():.0%} of a core, {busiest:.0%} in its busiest second",
                f"at most {CPU_SHARE_MAX:.0%}",
                busiest <= CPU_SHARE_MAX,
            ),
        ]
        if not self.valid:
            advice = (
                "INVALID: the generator did not keep up; offer less, or give it a core of its own"
            )
            found.append(Finding("this run", advice, "valid", False))
        return found

    def plain(self) -> dict[str, object]:
        """Return figures and time series for JSON."""
        report = self.report
        return {
            "seconds": self.seconds,
            "offered": len(report.shots),
            "offered_per_s": round(self.offered_per_s, 1),
            "sent_per_s": round(self.sent_per_s, 1),
            "answered_per_s": round(self.answered_per_s, 1),
            "told": dict(sorted(self.told.items())),
            "latency_ms": {
                status: {name: _ms_at(waits, share) for name, share in SHARES.items()}
                | {"max": _ms_at(waits, 1)}
                for status, waits in sorted(self._histograms.items())
            },
            "valid": self.valid,
            "generator": {
                "late_p99_ms": round(report.late_ms(0.99), 3),
                "cpu_share": round(report.cpu_share(), 3),
                "busiest_cpu_share": round(report.busiest_cpu_share(), 3),
            },
            "bucket_s": BUCKET_S,
            "buckets": [bucket.plain() for bucket in buckets(report.shots, self.seconds)],
        }

    def _wait(self, status: int) -> Finding:
        waits = self._histograms[status]
        shares = ", ".join(f"{name} {_ms_at(waits, at):.1f}" for name, at in SHARES.items())
        return Finding(f"wait for a {status}, ms", f"{shares}, max {_ms_at(waits, 1):.1f}")


def _histogram() -> HdrHistogram:
    return HdrHistogram(_MIN_US, _MAX_US, _DIGITS)


def _histograms(shots: Sequence[PlannedRequest]) -> dict[int, HdrHistogram]:
    waits_us = Counter(
        (shot.status, min(max(_MIN_US, round(1e6 * (shot.answered_s - shot.due_s))), _MAX_US))
        for shot in shots
        if shot.status
    )
    found: dict[int, HdrHistogram] = {}
    for (status, wait_us), count in waits_us.items():
        found.setdefault(status, _histogram()).record_value(wait_us, count)
    return found


def _ms_at(waits: HdrHistogram, share: float) -> float:
    if not waits.get_total_count():
        return 0.0
    return float(waits.get_value_at_percentile(100 * share)) / 1000


def _point(waits_ms: list[float]) -> dict[str, float]:
    """Return what is drawn of sorted latencies."""
    if not waits_ms:
        return {"count": 0}
    shares = {name: round(percentile(waits_ms, SHARES[name]), 3) for name in ("p50", "p99")}
    return {"count": len(waits_ms), **shares, "max": round(waits_ms[-1], 3)}


#: A run whose generator is later than this (99 of 100 shots) says nothing about the gateway.
LATE_MAX_MS = 50.0


def generator(report: GeneratorReport) -> Finding:
    """Tell whether the generator kept its own schedule."""
    late = report.late_ms(0.99)
    return Finding(
        "generator", f"p99 {late:.1f} ms late", f"under {LATE_MAX_MS:g} ms", late < LATE_MAX_MS
    )
