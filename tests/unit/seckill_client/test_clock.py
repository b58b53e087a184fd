"""The server's clock, from samples of different worth."""

from __future__ import annotations

import pytest

from seckill_client.clock import ServerClock


class Times:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 100.0, 1_000_000.0

    def go_on(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def clock(times: Times) -> ServerClock:
    return ServerClock(lambda: times.monotonic, lambda: times.wall)


def test_without_a_sample_it_is_the_client_s_own_clock(clock: ServerClock) -> None:
    assert clock.offset_s == 0
    assert clock.error_s == float("inf")


def test_a_sample_is_of_the_middle_of_its_round_trip(clock: ServerClock, times: Times) -> None:
    clock.note(99.0, 100.0, 2_000_000.0)
    assert (clock.now_s(), clock.error_s) == (2_000_000.5, 0.5)
    times.go_on(10)
    assert clock.now_s() == pytest.approx(2_000_010.5)


def test_a_slow_answer_does_not_spoil_what_a_quick_one_said(
    clock: ServerClock, times: Times
) -> None:
    clock.note(99.9, 100.0, 2_000_000.0)
    times.go_on(5)
    clock.note(100.0, 105.0, 2_000_003.0)
    assert clock.now_s() == pytest.approx(2_000_005.05, abs=0.001)


def test_samples_of_whole_seconds_bound_the_time_together(clock: ServerClock, times: Times) -> None:
    true_s = 2_000_000.25 - times.monotonic
    for step in (0.0, 0.3, 0.4, 0.7):
        times.go_on(step)
        second = int(true_s + times.monotonic)
        clock.note(times.monotonic, times.monotonic, second, stale_s=1)
        assert abs(clock.now_s() - true_s - times.monotonic) <= clock.error_s
    assert clock.error_s < 0.4


def test_a_server_whose_clock_was_set_is_believed(clock: ServerClock, times: Times) -> None:
    clock.note(100.0, 100.0, 2_000_000.0)
    times.go_on(1)
    clock.note(100.9, 101.0, 2_003_601.0)
    assert clock.now_s() == pytest.approx(2_003_601.05)


def test_a_client_whose_clock_is_set_still_knows_the_server_s(
    clock: ServerClock, times: Times
) -> None:
    clock.note(100.0, 100.0, 2_000_000.0)
    times.wall -= 3600
    assert clock.now_s() == 2_000_000.0
