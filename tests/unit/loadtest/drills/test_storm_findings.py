"""What is promised of a storm, and what counts as reached."""

from __future__ import annotations

from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import NoAnswer, PlannedRequest
from loadtest.drills.storm_findings import SOLD_OUT, WON, StormBounds, storm_findings
from loadtest.findings import Finding

SECONDS, KNEE = 10, 10.0


def ended(due_s: float, wait_s: float, status: int) -> PlannedRequest:
    return PlannedRequest(due_s, b"", sent_s=due_s, answered_s=due_s + wait_s, status=status)


def findings_of(requests: list[PlannedRequest], bounds: StormBounds = WON) -> dict[str, Finding]:
    """Return the findings by the end of their names: of 2.5 times a knee of 10/s, for 10 s."""
    found = storm_findings(CrowdReport(13, requests), bounds, KNEE, 2.5, SECONDS)
    return {finding.name.partition(": ")[2]: finding for finding in found}


def storm(good: int, refused: int, gave_up: int, *, wait_s: float = 0.1) -> list[PlannedRequest]:
    endings = [202] * good + [503] * refused + [0] * gave_up
    requests = [ended(1 + n / 100, wait_s, status) for n, status in enumerate(endings)]
    for request in requests[good + refused :]:
        request.answered_s, request.no_answer = 0, NoAnswer.GAVE_UP
    return requests


def unreached(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.reached is False}


def test_all_is_reached_where_the_rest_are_refused_at_once() -> None:
    findings = findings_of([*storm(80, 160, 10), ended(SECONDS + 0.9, 1.5, 202)])
    assert unreached(findings) == set()
    assert findings["answers"].value == "80 x 202, 160 x 503, 10 x gave up"
    assert findings["goodput / knee"].value == "0.8"
    assert findings["last trouble after the end"].value == "0.90 s"


def test_each_thing_that_is_missed_is_named() -> None:
    soon = "answered, refused or reset within 1 s"
    assert unreached(findings_of(storm(79, 171, 0))) == {"goodput / knee"}
    assert unreached(findings_of(storm(80, 150, 20))) == {soon}
    slow = unreached(findings_of(storm(80, 150, 0, wait_s=1.5)))
    assert slow == {"goodput / knee", "p99 of a 202", soon}
    late = [*storm(80, 150, 0), ended(SECONDS + 1.1, 0.1, 503)]
    assert unreached(findings_of(late)) == {"last trouble after the end"}


def test_no_answer_at_all_is_no_good_percentile() -> None:
    assert "p99 of a 409" in unreached(findings_of(storm(80, 150, 0), SOLD_OUT))


def test_a_late_generator_is_named() -> None:
    requests = storm(80, 150, 0)
    for request in requests:
        request.sent_s += 0.06
    assert unreached(findings_of(requests)) == {"generator"}


def test_at_five_times_the_knee_half_is_promised() -> None:
    assert WON.at(1.5) == WON.at(2.5) == WON
    far = WON.at(5)
    assert (far.goodput, far.p99_ms, far.soon) == (0.4, 500, 0.475)
