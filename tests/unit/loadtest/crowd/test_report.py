"""What an open-loop run comes to, and when it does not count."""

from __future__ import annotations

import pytest

from loadtest.crowd.generator import GeneratorReport, PlannedRequest
from loadtest.crowd.report import CrowdReport, buckets


def shot(due_s: float, wait_ms: float = 0, status: int = 202, late_ms: float = 0) -> PlannedRequest:
    """Make a shot that was answered, or with status 0 sent only."""
    answered_s = due_s + wait_ms / 1000 if status else 0.0
    return PlannedRequest(
        due_s, b"", sent_s=due_s + late_ms / 1000, answered_s=answered_s, status=status
    )


def busy(*shares: float) -> list[tuple[float, float]]:
    """Make the notes of a generator that took such a share of each second."""
    return [(float(n), sum(shares[:n])) for n in range(len(shares) + 1)]


def test_each_class_has_percentiles_of_its_own() -> None:
    accepted = [shot(0, wait_ms) for wait_ms in range(1, 1001)]
    refused = [shot(0, 1, 409) for _ in range(9_000)]
    report = CrowdReport(GeneratorReport([*accepted, *refused, shot(0, status=0)]), seconds=10)
    assert report.latency_ms(0.5, 202) == pytest.approx(500, rel=0.002)
    assert report.latency_ms(0.99, 202) == pytest.approx(990, rel=0.002)
    assert report.latency_ms(1, 202) == pytest.approx(1000, rel=0.002)
    assert report.latency_ms(0.99, 409) == pytest.approx(1, rel=0.002)
    assert report.latency_ms(0.9, 202, 409) == pytest.approx(1, rel=0.002)
    assert report.latency_ms(0.99, 503) == 0
    assert report.told == {202: 1000, 409: 9_000, 0: 1}


def test_a_wait_beyond_the_histogram_is_counted_as_its_longest() -> None:
    report = CrowdReport(GeneratorReport([shot(0, 70_000), shot(0, 0)]), seconds=1)
    assert report.latency_ms(1, 202) == pytest.approx(60_000, rel=0.002)
    assert report.latency_ms(0, 202) == pytest.approx(0.001)


def test_offered_sent_and_answered_are_told_apart() -> None:
    shots = [shot((n + 1) / 100, 1) for n in range(800)]
    shots += [shot(8 + n / 100, 6_000, 503) for n in range(50)]  # answered until 14.49 s
    shots += [shot(8, status=0) for _ in range(50)]
    shots += [PlannedRequest(9, b"") for _ in range(100)]  # never sent
    report = CrowdReport(GeneratorReport(shots), seconds=10)
    assert report.offered_per_s == 100
    assert report.sent_per_s == 90
    assert report.answered_per_s == pytest.approx(850 / 14.49)
    assert report.rate_of(202) == 80
    assert report.rate_of(503) == pytest.approx(50 / 14.49)


@pytest.mark.parametrize(
    ("late_ms", "shares", "valid"),
    [
        (0, (0.1, 0.1), True),
        (49, (0.8, 0.8), True),
        (51, (0.1, 0.1), False),
        (0, (0.9, 0.9), False),
        (0, (0.1, 0.9, 0.1, 0.1), False),  # while the crowd pressed
    ],
)
def test_a_run_whose_generator_did_not_keep_up_is_invalid(late_ms, shares, valid) -> None:
    shots = [shot(n / 10, 100, late_ms=late_ms) for n in range(10)]
    report = CrowdReport(GeneratorReport(shots, cpu_notes=busy(*shares)), seconds=1)
    assert report.valid is valid
    assert report.plain()["valid"] is valid
    verdicts = [finding.reached for finding in report.findings()]
    assert (False not in verdicts) is valid


@pytest.mark.parametrize(
    ("status", "reached"), [(409, True), (0, False), (401, False), (500, False)]
)
def test_a_run_is_not_good_unless_everybody_got_an_answer_to_a_grab(status, reached) -> None:
    report = CrowdReport(GeneratorReport([shot(0, 1), shot(0, 1, status)]), seconds=1)
    assert [f.reached for f in report.findings() if f.name == "told"] == [reached]


def test_buckets_go_by_the_intended_time_and_leave_no_gap() -> None:
    shots = [
        shot(0.01, 5_000),
        shot(0.02, 1, 409),
        shot(0.19, 3),
        shot(0.15, 2),
        shot(0.5, status=0),
    ]
    parted = buckets(shots, seconds=0.6, width_s=0.1)
    assert [bucket.offered for bucket in parted] == [2, 2, 0, 0, 0, 1]
    assert [sorted(bucket.waits_ms) for bucket in parted] == [[202, 409], [202], [], [], [], []]
    assert parted[1].waits_ms[202] == pytest.approx([2, 3])
    assert parted[1].plain() == {
        "begin_s": 0.1,
        "offered": 2,
        "all": {"count": 2, "p50": 3.0, "p99": 3.0, "max": 3.0},
        "classes": {202: {"count": 2, "p50": 3.0, "p99": 3.0, "max": 3.0}},
    }
    assert parted[5].plain()["all"] == {"count": 0}


def test_what_is_due_on_an_edge_belongs_to_the_bucket_that_begins_there() -> None:
    parted = buckets([shot(n / 20, 1) for n in range(60)], seconds=3, width_s=0.1)
    assert [bucket.offered for bucket in parted] == [2] * 30


def test_the_last_bucket_takes_what_rounding_leaves() -> None:
    shots = [shot(n / 100, 1) for n in range(105)]
    parted = buckets(shots, seconds=1.05, width_s=0.1)
    assert sum(bucket.offered for bucket in parted) == 105
