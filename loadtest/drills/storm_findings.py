"""What is promised of a storm: more buyers than can be served, for some seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from loadtest.crowd.report import GOOD_S, SOON_S, CrowdReport
from loadtest.findings import Finding, counts_text

#: All has to be well so long after a storm.
WELL_AFTER_S = 1.0
#: Up to so many times a knee all of it is promised.
FULL_FACTOR = 2.5


@dataclass(frozen=True, slots=True)
class StormBounds:
    """What is promised above a knee."""

    row: str
    status: int
    #: Share of the knee's goodput.
    goodput: float
    goodput_aim: float | None
    p99_ms: float
    #: Share of all that is answered, refused or reset within SOON_S.
    soon: float = 0.95

    def at(self, factor: float) -> StormBounds:
        """Return what is promised at so many times a knee: far above it, half of this."""
        if factor <= FULL_FACTOR:
            return self
        return replace(
            self,
            goodput=self.goodput / 2,
            goodput_aim=None,
            p99_ms=2 * self.p99_ms,
            soon=self.soon / 2,
        )


WON = StormBounds("2", 202, 0.8, 0.9, 250)
SOLD_OUT = StormBounds("3", 409, 0.9, None, 100)


def storm_findings(
    report: CrowdReport, bounds: StormBounds, knee: float, factor: float, seconds: float
) -> list[Finding]:
    """Return what a storm came to: of so many seconds, and followed by a gentle rate."""
    storm = CrowdReport(
        seconds, [r for r in report.requests if r.due_s < seconds], report.cpu_notes
    )
    after = [r for r in report.requests if r.due_s >= seconds]
    ill = (r.due_s for r in after if r.status != bounds.status or r.wait_s > GOOD_S)
    last_s = max(ill, default=seconds) - seconds
    name = f"{bounds.row} x{factor:g}, {'won' if bounds.status == 202 else 'sold out'}"
    goodput, soon = storm.goodput_per_s(bounds.status) / knee, storm.soon_share()
    latency = ", ".join(
        f"{ending} p50 {figures['p50']:,.0f} p99 {figures['p99']:,.0f}"
        for ending, figures in storm.latencies().items()
    )
    return [
        Finding(f"{name}: offered", f"{storm.offered_per_s:,.0f}/s for {seconds:g} s"),
        Finding(f"{name}: answers", counts_text(storm.endings())),
        Finding(f"{name}: waits, ms", latency),
        at_least(f"{name}: goodput / knee", goodput, bounds.goodput, bounds.goodput_aim),
        p99_finding(name, storm, bounds.status, bounds.p99_ms),
        Finding(
            f"{name}: answered, refused or reset within {SOON_S:g} s",
            f"{soon:.1%}",
            f"at least {bounds.soon:.4g}",
            soon >= bounds.soon,
            soon,
        ),
        Finding(
            f"{name}: last trouble after the end",
            f"{last_s:.2f} s",
            f"within {WELL_AFTER_S:g} s",
            last_s <= WELL_AFTER_S,
            last_s,
        ),
        validity_finding(name, storm),
    ]


def at_least(name: str, ratio: float, bound: float, aim: float | None = None) -> Finding:
    """Return the finding that a ratio is at least what is promised."""
    promised = f"at least {bound:g}" + (f", aim {aim:g}" if aim else "")
    return Finding(name, f"{ratio:.3g}", promised, ratio >= bound, ratio)


def p99_finding(name: str, report: CrowdReport, status: int, most_ms: float) -> Finding:
    """Return the finding that some have been answered so, and 99 of 100 of them in time."""
    ms = report.latency_ms(0.99, status)
    promised = f"at most {most_ms:g} ms"
    reached, number = 0 < ms <= most_ms, ms or math.inf
    return Finding(f"{name}: p99 of a {status}", f"{ms:,.0f} ms", promised, reached, number)


def validity_finding(name: str, report: CrowdReport) -> Finding:
    """Return the finding that the generator kept up; its own queue is not the gateway's."""
    busy = report.busiest_cpu_share()
    text = f"p99 {report.late_ms(0.99):,.1f} ms late, {busy:.0%} of a core in its busiest second"
    text = text if report.valid else f"INVALID: {text}"
    return Finding(f"{name}: generator", text, "valid", report.valid)
