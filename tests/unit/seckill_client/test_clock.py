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
    assert clock.now_s() == 2_000_000.5
    assert clock.error_s == 0.5
    times.go_on(10)
    assert clock.now_s() == pytest.approx(2_000_010.5)


def test_a_slow_answer_does_not_spoil_what_a_quick_one_said(
    clock: ServerClock, times: Times
) -> None:
    clock.note(99.9, 100.0, 2_000_000.0)
    times.go_on(5)
    clock.note(100.0, 105.0, 2_000_009.0)
    assert clock.now_s() == pytest.approx(2_000_005.05)


def test_an_old_sample_gives_way(clock: ServerClock, times: Times) -> None:
    clock.note(100.0, 100.0, 2_000_000.0)
    times.go_on(3600)
    clock.note(3699.9, 3700.0, 2_003_601.0)
    assert clock.now_s() == pytest.approx(2_003_601.05)


def test_a_client_whose_clock_is_set_still_knows_the_server_s(
    clock: ServerClock, times: Times
) -> None:
    clock.note(100.0, 100.0, 2_000_000.0)
    times.wall -= 3600
    assert clock.now_s() == 2_000_000.0
