"""Several rounds become one line for each thing that was measured."""

from __future__ import annotations

from loadtest.findings import Finding, medians


def rounds_of(*findings: Finding) -> list[list[Finding]]:
    return [[finding] for finding in findings]


def test_of_numbers_the_median_counts() -> None:
    numbers = (0.7, 0.9, 0.8)
    found = medians(rounds_of(*(Finding("goodput", f"{n}", "0.8", n >= 0.8, n) for n in numbers)))
    assert found == [Finding("goodput", "0.8 (0.7, 0.9, 0.8)", "0.8", True, 0.8)]


def test_what_is_no_number_has_to_be_reached_each_time() -> None:
    ledgers = (
        Finding("ledger", "balanced", "balanced", True),
        Finding("ledger", "1 more", "", False),
    )
    assert medians(rounds_of(*ledgers)) == [
        Finding("ledger", "balanced; 1 more", "balanced", False)
    ]
    answers = Finding("answers", "5 x 202")
    assert medians(rounds_of(answers, answers)) == [answers]


def test_one_round_is_reported_as_it_is() -> None:
    found = [Finding("knee", "5,000/s", number=5_000.0), Finding("answers", "5 x 202")]
    assert medians([found]) == found
