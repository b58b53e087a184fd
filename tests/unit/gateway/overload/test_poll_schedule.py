"""When to ask again: appointments no closer together than the budget."""

from __future__ import annotations

import pytest

from gateway.overload.poll_schedule import LEAST_S, MOST_S, PollSchedule

LEAST_MS, MOST_MS = int(LEAST_S * 1000), int(MOST_S * 1000)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_lone_buyer_asks_again_after_half_a_second(clock: Clock) -> None:
    schedule = PollSchedule(100, clock)
    assert schedule.next_poll_ms() == LEAST_MS == 500
    clock.now += 1
    assert schedule.next_poll_ms() == 500


def test_arrivals_within_the_budget_get_the_least_wait(clock: Clock) -> None:
    schedule = PollSchedule(100, clock)
    for _ in range(1000):
        assert schedule.next_poll_ms() == pytest.approx(LEAST_MS, abs=1)
        clock.now += 0.01


def test_a_crowd_is_spread_over_the_time_that_the_budget_needs(clock: Clock) -> None:
    schedule = PollSchedule(100, clock)
    polls_ms = [schedule.next_poll_ms() for _ in range(500)]
    assert polls_ms == sorted(polls_ms)
    assert polls_ms[-1] == pytest.approx(LEAST_MS + 499 * 10, abs=1)
    for second in range(1, 5):
        due = [ms for ms in polls_ms if second * 1000 <= ms < (second + 1) * 1000]
        assert len(due) == pytest.approx(100, abs=1)


def test_a_crowd_that_keeps_its_appointments_never_polls_faster_than_the_budget(
    clock: Clock,
) -> None:
    schedule = PollSchedule(100, clock)
    polls: dict[int, int] = {}
    due = [schedule.next_poll_ms() for _ in range(800)]
    while (at_ms := min(due)) < 30_000:
        due.remove(at_ms)
        polls[at_ms // 1000] = polls.get(at_ms // 1000, 0) + 1
        clock.now = 1000 + at_ms / 1000
        due.append(at_ms + schedule.next_poll_ms())
    assert max(polls.values()) <= 101
    assert min(polls[second] for second in range(1, 29)) >= 95, "nor much slower"


def test_nobody_waits_longer_than_the_most(clock: Clock) -> None:
    schedule = PollSchedule(1, clock)
    assert max(schedule.next_poll_ms() for _ in range(10_000)) == MOST_MS


def test_it_falls_back_once_the_crowd_has_gone_however_large_it_was(clock: Clock) -> None:
    schedule = PollSchedule(100, clock)
    for _ in range(100_000):
        schedule.next_poll_ms()
    clock.now += 5
    assert schedule.next_poll_ms() == pytest.approx(MOST_MS - 5000, abs=20)
    clock.now += 15
    assert schedule.next_poll_ms() == LEAST_MS
