"""What an open-loop run comes to, and when it is not valid."""

from __future__ import annotations

import pytest

from loadtest.crowd.latencies import time_series
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import NoAnswer, PlannedRequest


def planned(
    due_s: float, wait_ms: float = 0, status: int = 202, late_ms: float = 0
) -> PlannedRequest:
    """Make a request that was answered, or with status 0 sent only."""
    answered_s = due_s + wait_ms / 1000 if status else 0.0
    return PlannedRequest(
        due_s, b"", sent_s=due_s + late_ms / 1000, answered_s=answered_s, status=status
    )


def busy(*shares: float) -> list[tuple[float, float]]:
    """Make the notes of a generator that took such a share of each second."""
    return [(float(n), sum(shares[:n])) for n in range(len(shares) + 1)]


def test_each_class_has_percentiles_of_its_own() -> None:
    accepted = [planned(0, wait_ms) for wait_ms in range(1, 1001)]
    refused = [planned(0, 1, 409) for _ in range(9_000)]
    report = CrowdReport(10, [*accepted, *refused, planned(0, status=0)])
    assert report.latency_ms(0.5, 202) == pytest.approx(500, rel=0.002)
    assert report.latency_ms(0.99, 202) == pytest.approx(990, rel=0.002)
    assert report.latency_ms(1, 202) == pytest.approx(1000, rel=0.002)
    assert report.latency_ms(0.99, 409) == pytest.approx(1, rel=0.002)
    assert report.latency_ms(0.9, 202, 409) == pytest.approx(1, rel=0.002)
    assert report.latency_ms(0.99, 503) == 0
    assert report.answers() == {202: 1000, 409: 9_000, 0: 1}


def test_a_wait_beyond_the_histogram_is_counted_as_its_longest() -> None:
    report = CrowdReport(1, [planned(0, 70_000), planned(0, 0)])
    assert report.latency_ms(1, 202) == pytest.approx(60_000, rel=0.002)
    assert report.latency_ms(0, 202) == pytest.approx(0.001)


def test_offered_sent_and_answered_are_three_rates() -> None:
    requests = [planned((n + 1) / 100, 1) for n in range(800)]
    requests += [planned(8 + n / 100, 6_000, 503) for n in range(50)]  # answered until 14.49 s
    requests += [planned(8, status=0) for _ in range(50)]
    requests += [PlannedRequest(9, b"") for _ in range(100)]  # never sent
    report = CrowdReport(10, requests)
    assert report.offered_per_s == 100
    assert report.sent_per_s == 90
    assert report.answered_per_s() == pytest.approx(850 / 14.49)
    assert report.answered_per_s(202) == 80
    assert report.answered_per_s(503) == pytest.approx(50 / 14.49)


def test_a_late_generator_is_not_taken_for_a_slow_server() -> None:
    late, slow, unsent = planned(1, 8_000, late_ms=500), planned(1, 1_000), PlannedRequest(1, b"")
    report = CrowdReport(10, [late, slow, unsent])
    assert report.late_ms(1) == 500
    assert report.late_ms(0) == 0


def test_waiting_for_a_connection_does_not_make_the_generator_late() -> None:
    waited = planned(1, 9_000, late_ms=8_000)
    waited.queued_s = 1.25
    never_sent = PlannedRequest(1, b"", queued_s=1.75)
    assert CrowdReport(10, [waited]).late_ms(1) == 250
    assert CrowdReport(10, [waited, never_sent]).late_ms(1) == 750
    assert CrowdReport(10, [waited]).latency_ms(1, 202) == pytest.approx(9_000, rel=0.002)


def test_the_generators_share_of_a_core_is_its_cpu_time_by_the_time_of_the_run() -> None:
    # A tenth of a second of rest and of work in turn, and a second of nothing but work.
    busy_s = [0.0, 0.0, 0.1, 0.1, 0.2, *(0.2 + n / 10 for n in range(1, 11)), 1.2, 1.2, 1.2, 1.2]
    report = CrowdReport(2, cpu_notes=[(n / 10, 7 + cpu_s) for n, cpu_s in enumerate(busy_s)])
    assert report.cpu_share() == pytest.approx(1.2 / 1.8)
    assert report.busiest_cpu_share() == pytest.approx(1.0)
    assert report.busiest_cpu_share(60) == report.cpu_share(), "a run shorter than the span"
    assert CrowdReport(2).busiest_cpu_share() == 0


@pytest.mark.parametrize(
    ("late_ms", "shares", "valid"),
    [
        (0, (0.1, 0.1), True),
        (49, (0.8, 0.8), True),
        (51, (0.1, 0.1), False),
        (0, (0.9, 0.9), False),
        (0, (0.1, 0.9, 0.1, 0.1), False),  # in the busiest second
    ],
)
def test_a_run_whose_generator_did_not_keep_up_is_invalid(late_ms, shares, valid) -> None:
    requests = [planned(n / 10, 100, late_ms=late_ms) for n in range(10)]
    report = CrowdReport(1, requests, busy(*shares))
    assert report.valid is valid
    assert report.plain()["valid"] is valid
    verdicts = [finding.reached for finding in report.findings()]
    assert (False not in verdicts) is valid


@pytest.mark.parametrize(
    ("status", "reached"), [(409, True), (0, False), (401, False), (500, False)]
)
def test_a_run_is_not_good_unless_every_request_got_an_answer_to_a_grab(status, reached) -> None:
    report = CrowdReport(1, [planned(0, 1), planned(0, 1, status)])
    assert [f.reached for f in report.findings() if f.name == "answers"] == [reached]


def test_a_run_without_any_request_proves_nothing() -> None:
    assert CrowdReport(1, []).answers_finding(202).reached is False


def test_the_time_series_goes_by_the_intended_time_and_leaves_no_gap() -> None:
    requests = [
        planned(0.01, 5_000),
        planned(0.02, 1, 409),
        planned(0.19, 3),
        planned(0.15, 2),
        planned(0.5, status=0),
    ]
    series = time_series(requests, seconds=0.6, width_s=0.1)
    assert [part["offered"] for part in series] == [2, 2, 0, 0, 0, 1]
    assert [list(part["classes"]) for part in series] == [[202, 409], [202], [], [], [], []]
    assert series[1] == {
        "begin_s": 0.1,
        "offered": 2,
        "all": {"count": 2, "p50": 3.0, "p99": 3.0, "max": 3.0},
        "classes": {202: {"count": 2, "p50": 3.0, "p99": 3.0, "max": 3.0}},
    }
    assert series[5]["all"] == {"count": 0}


def test_what_is_due_on_an_edge_belongs_to_the_part_that_begins_there() -> None:
    series = time_series([planned(n / 20, 1) for n in range(60)], seconds=3, width_s=0.1)
    assert [part["offered"] for part in series] == [2] * 30


def test_the_last_part_takes_what_rounding_leaves() -> None:
    requests = [planned(n / 100, 1) for n in range(105)]
    series = time_series(requests, seconds=1.05, width_s=0.1)
    assert sum(part["offered"] for part in series) == 105


def test_goodput_is_of_the_good_and_soon_is_whatever_came_soon() -> None:
    reset, gave_up = planned(0, status=0), planned(0, status=0)
    reset.no_answer, reset.answered_s = NoAnswer.RESET, 0.5
    gave_up.no_answer = NoAnswer.GAVE_UP
    requests = [planned(0, 249), planned(0, 249, 409), planned(0, 251), planned(0, 900, 503)]
    report = CrowdReport(2, [*requests, planned(0, 1_001), reset, gave_up, planned(0, status=0)])
    assert report.goodput_per_s(202) == 0.5
    assert report.goodput_per_s(202, 409) == 1
    assert report.soon_share() == 5 / 8
    assert report.endings() == {
        "202": 3,
        "409": 1,
        "503": 1,
        "reset": 1,
        "gave up": 1,
        "no answer": 1,
    }
    assert report.answers_finding(202, 409, 503).reached is False
    assert any("wait for a reset" in finding.name for finding in report.findings())
