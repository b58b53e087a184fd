"""A drill in which nothing was sold, seen or chosen proves nothing, and says so."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.drills import alerts, overload, store_states
from loadtest.drills.clusters.frame import TroubleFigures
from loadtest.findings import Finding, all_placed


def answered(status: int, count: int = 10) -> CrowdReport:
    requests = [
        PlannedRequest(n / 10, b"", sent_s=n / 10, answered_s=n / 10 + 0.02, status=status)
        for n in range(count)
    ]
    return CrowdReport(2, requests)


def reached(findings: list[Finding]) -> dict[str, bool | None]:
    return {finding.name: finding.reached for finding in findings}


@pytest.mark.parametrize(("status", "is_good"), [(202, True), (503, False)])
def test_an_overload_in_which_all_are_refused_is_not_answered_in_time(
    status: int, is_good: bool
) -> None:
    found = reached(overload._overload_findings(answered(status), 2))
    assert (found["answers"], found["wait for a 202"]) == (True, is_good)


@pytest.mark.parametrize(
    ("placed", "won", "is_good"), [(3, 3, True), (4, 3, True), (2, 3, False), (0, 0, False)]
)
def test_each_202_has_a_row_where_there_was_one(placed: int, won: int, is_good: bool) -> None:
    assert all_placed("orders", placed, won).reached is is_good


@pytest.mark.parametrize(
    ("p99_ms", "lost", "violations", "is_good"),
    [
        ([20.0, 30.0], 0, [], True),
        ([20.0, 0.0], 0, [], False),
        ([20.0, 30.0], 1, [], False),
        ([20.0, 30.0], 0, ["sold twice"], False),
    ],
)
def test_a_trouble_in_which_a_run_sold_nothing_was_not_outlived(
    p99_ms: list[float], lost: int, violations: list[str], is_good: bool
) -> None:
    figures = TroubleFigures([1.0], [1.0], [0.5], p99_ms, [90.0], lost, violations)
    assert figures.finding("killed", broken=True).reached is is_good


@pytest.mark.parametrize("looked", [True, False])
def test_no_alert_of_a_prometheus_that_never_answered_proves_nothing(looked: bool) -> None:
    watch = alerts.Watch("http://127.0.0.1:1")
    if looked:
        watch.over.set()
    found = alerts._findings(watch, alerts.Fault.NONE, answered(202))
    assert all(finding.reached for finding in found) is looked


def test_no_state_that_is_called_so_is_a_mistake() -> None:
    done = CliRunner().invoke(store_states.app, ["--only", "no such state"])
    assert done.exit_code == 2
    assert "no state is called" in done.output
