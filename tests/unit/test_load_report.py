"""What a report makes of its shots."""

from __future__ import annotations

from loadtest.open_loop import Report, Shot


def shot(due_s: float, sent_s: float, answered_s: float, status: int) -> Shot:
    return Shot(due_s, b"", sent_s=sent_s, answered_s=answered_s, status=status)


def test_answers_are_counted_by_status_and_none_is_one() -> None:
    report = Report([shot(0, 0, 1, status) for status in (202, 409, 202, 0, 429)])
    assert report.told() == {202: 2, 409: 1, 429: 1, 0: 1}


def test_latencies_count_from_the_intended_time_and_by_status() -> None:
    hundred = [shot(1, 1 + n / 10, 1 + n / 1000, 202) for n in range(1, 101)]
    report = Report([*hundred, shot(0, 0, 50, 409), shot(0, 0, 0, 0)])
    assert [round(report.latency_ms(share, 202)) for share in (0, 0.5, 0.99, 1)] == [
        1,
        51,
        100,
        100,
    ]
    assert report.latency_ms(1, 202, 409) == 50_000
    assert report.latency_ms(0.5, 503) == 0


def test_a_late_generator_is_told_from_a_slow_server() -> None:
    report = Report([shot(1, 1.5, 9, 202), shot(1, 1, 2, 202), shot(1, 0, 0, 0)])
    assert report.late_ms(1) == 500
    assert report.late_ms(0) == 0
