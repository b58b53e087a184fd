"""Redis's time as a gateway knows it: not ahead, nor behind because it stood still."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.grabs import reservations
from gateway.grabs.reservations import RedisClock

#: What Redis's clock shows when this machine's shows 0, in milliseconds.
REDIS_AHEAD = 1_795_000_000_000


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    """Stop this machine's clock; the test moves it on, and gets the time."""
    now = 1_000

    def advance(milliseconds: int) -> int:
        nonlocal now
        now += milliseconds
        return now

    monkeypatch.setattr(reservations, "monotonic_ms", lambda: now)
    return advance


def test_an_answer_that_lay_here_for_a_second_does_not_put_the_clock_back(advance):
    clock = RedisClock()
    asked = advance(0)
    redis_ms = REDIS_AHEAD + advance(1)
    advance(1)
    clock.observe(redis_ms, asked_ms=asked)
    assert clock.now_ms() == redis_ms  # as late as it may be: a moment old

    asked = advance(500)
    redis_ms = REDIS_AHEAD + advance(1)
    now = advance(1_000)  # the process stood still
    clock.observe(redis_ms, asked_ms=asked)
    assert clock.now_ms() == REDIS_AHEAD + now - 1


def test_the_clock_comes_nearer_with_a_quicker_answer(advance):
    clock = RedisClock()
    asked = advance(0)
    redis_ms = REDIS_AHEAD + advance(1)
    advance(200)
    clock.observe(redis_ms, asked_ms=asked)

    asked = advance(10)
    redis_ms = REDIS_AHEAD + advance(0)
    now = advance(2)
    clock.observe(redis_ms, asked_ms=asked)
    assert clock.now_ms() == REDIS_AHEAD + now - 2


@pytest.mark.parametrize("step", [-10_000, 10_000])
def test_the_clock_follows_a_redis_whose_own_was_set(advance, step):
    clock = RedisClock()
    for ahead in (REDIS_AHEAD, REDIS_AHEAD + step):
        asked = advance(0)
        redis_ms = ahead + advance(1)
        now = advance(2)
        clock.observe(redis_ms, asked_ms=asked)
    assert redis_ms <= clock.now_ms() <= ahead + now
