"""What an open-loop run comes to: classes of answers, percentiles, and whether the run is valid.

Latencies count from the intended moment, each class of answers (202, 409, 429, 503 and so on) by
itself: refusals are fast, and would make the accepted look fast, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from loadtest.crowd.latencies import BUCKET_S, SHARES, histogram, ms_at, percentile, time_series
from loadtest.crowd.requests import NoAnswer, PlannedRequest
from loadtest.findings import Finding, counts_text

#: A generator that takes more of its core than this makes waits of its own, and the figures are
#: not the gateway's. Taken in the busiest second: a spike may be over before the mean shows it.
CPU_SHARE_MAX = 0.8
#: A run whose generator is later than this (99 of 100 requests) is no statement about the gateway.
LATE_MAX_MS = 50.0
#: What the contract lets a grab be answered. Anything else is a mistake of the run, or a fault.
ANSWERS = (200, 202, 403, 409, 410, 429, 503)
#: An answer within this time is a good one, as the knee of a server is found by it.
GOOD_S = 0.25
#: What is known within this time, be it a refusal, is known soon.
SOON_S = 1.0


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

    def endings(self) -> Counter[str]:
        """Count the answers by status, and what has none by the reason."""
        return Counter(str(request.ending) for request in self.requests)

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
        return ms_at(histogram(self.answered(*statuses)), share)

    def goodput_per_s(self, *statuses: int) -> float:
        """Return what was answered so and within GOOD_S, a second."""
        good = sum(1 for request in self.answered(*statuses) if request.wait_s <= GOOD_S)
        return good / self.seconds

    def soon_share(self) -> float:
        """Return the share of all that was answered, refused or reset within SOON_S."""
        soon = sum(1 for r in self.requests if r.answered_s and r.wait_s <= SOON_S)
        return soon / max(1, len(self.requests))

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

    def answers_finding(self, *allowed: int | NoAnswer) -> Finding:
        """Return the answers, and the finding that some came and no others than are allowed."""
        counts, names = self.endings(), [str(ending) for ending in allowed]
        promised = f"{', '.join(names)} alone"
        well = bool(counts) and counts.keys() <= set(names)
        return Finding("answers", counts_text(counts), promised, well)

    def late_finding(self) -> Finding:
        """Return the finding that the generator kept its own schedule."""
        late_ms = self.late_ms(0.99)
        text, promised = f"p99 {late_ms:.1f} ms late", f"under {LATE_MAX_MS:g} ms"
        return Finding("generator", text, promised, late_ms < LATE_MAX_MS)

    def findings(self, *also_allowed: NoAnswer) -> list[Finding]:
        """Return all that is to be reported of the run."""
        offered, busiest = len(self.requests), self.busiest_cpu_share()
        rates = f"{self.sent_per_s:,.0f}/s sent, {self.answered_per_s():,.0f}/s answered"
        queued = sum(1 for request in self.requests if request.queued_s)
        cpu = f"{self.cpu_share():.0%} of a core, {busiest:.0%} in its busiest second"
        good = f"{self.goodput_per_s(202, 409):,.0f}/s 202 or 409 within {1000 * GOOD_S:g} ms"
        soon = f"{self.soon_share():.1%} answered, refused or reset"
        found = [
            Finding("offered", f"{offered:,} grabs, {self.offered_per_s:,.0f}/s"),
            Finding("achieved", rates),
            self.answers_finding(*ANSWERS, *also_allowed),
            Finding("goodput", good),
            Finding(f"within {SOON_S:g} s", soon),
        ]
        for ending, figures in self.latencies().items():
            text = ", ".join(f"{name} {ms:.1f}" for name, ms in figures.items())
            found.append(Finding(f"wait for a {ending}, ms", text))
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
            "endings": dict(sorted(self.endings().items())),
            "goodput_per_s": round(self.goodput_per_s(202, 409), 1),
            "soon_share": round(self.soon_share(), 4),
            "latency_ms": self.latencies(),
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

    def latencies(self) -> dict[int | NoAnswer, dict[str, float]]:
        """Return the percentiles in ms of each kind of ending whose moment is known."""
        ended: dict[int | NoAnswer, list[PlannedRequest]] = {}
        for request in self.requests:
            if request.answered_s:
                ended.setdefault(request.ending, []).append(request)
        found = {}
        for ending, requests in sorted(ended.items(), key=lambda item: str(item[0])):
            waits = histogram(requests)
            shares = {name: ms_at(waits, share) for name, share in SHARES.items()}
            found[ending] = shares | {"max": ms_at(waits, 1)}
        return found
