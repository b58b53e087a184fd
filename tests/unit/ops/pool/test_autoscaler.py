"""The autoscaler: fast up, slow down, and never on a guess."""

from __future__ import annotations

import pytest

from ops.pool.autoscaler import (
    CALM_AGE_S,
    GROW_AFTER,
    GROW_AGE_S,
    SHRINK_AFTER,
    Reading,
    Trend,
    decide,
)

BUSY = Reading(backlog=50, oldest_age_s=GROW_AGE_S)
CALM = Reading(backlog=0, oldest_age_s=0.0)
BETWEEN = Reading(backlog=50, oldest_age_s=(CALM_AGE_S + GROW_AGE_S) / 2)
UNKNOWN = Reading(backlog=None, oldest_age_s=None)
HELD = Reading(backlog=50, oldest_age_s=60.0, held=True)
#: The oldest is in flight and nothing waits: another process would find nothing to take.
ALL_IN_HAND = Reading(backlog=0, oldest_age_s=60.0)


def after(wanted: int, *readings: Reading, low: int = 1, high: int = 8) -> int:
    trend = Trend()
    for reading in readings:
        wanted, trend = decide(wanted, low, high, reading, trend)
    return wanted


@pytest.mark.parametrize(
    ("wanted", "readings", "then"),
    [
        (1, [BUSY] * (GROW_AFTER - 1), 1),
        (1, [BUSY] * GROW_AFTER, 2),
        (1, [BUSY] * 2 * GROW_AFTER, 4),
        (5, [BUSY] * GROW_AFTER, 8),
        (8, [BUSY] * 2 * GROW_AFTER, 8),
        (4, [CALM] * (SHRINK_AFTER - 1), 4),
        (4, [CALM] * SHRINK_AFTER, 3),
        (4, [CALM] * 10 * SHRINK_AFTER, 1),
        (4, [BETWEEN] * 10 * SHRINK_AFTER, 4),
        (4, [UNKNOWN] * 10 * SHRINK_AFTER, 4),
        (4, [HELD] * 10 * SHRINK_AFTER, 4),
        (4, [ALL_IN_HAND] * 10 * SHRINK_AFTER, 4),
        (4, [BUSY, CALM] * SHRINK_AFTER, 4),
        (4, [BUSY, BETWEEN] * SHRINK_AFTER, 4),
        (4, [BUSY, UNKNOWN] * SHRINK_AFTER, 4),
        (4, [*[CALM] * (SHRINK_AFTER - 1), BETWEEN] * 5, 4),
    ],
)
def test_count_after_readings(wanted: int, readings: list[Reading], then: int) -> None:
    assert after(wanted, *readings) == then


def test_a_role_that_rests_at_zero_is_woken_by_its_backlog() -> None:
    assert after(0, *[BUSY] * GROW_AFTER, low=0) == 1
    assert after(1, *[CALM] * SHRINK_AFTER, low=0) == 0


def test_a_load_that_comes_and_goes_each_minute_does_not_flap() -> None:
    wanted, trend, changes = 1, Trend(), 0
    for second in range(0, 1200, 2):
        reading = BUSY if second % 60 < 10 else CALM
        now, trend = decide(wanted, 1, 4, reading, trend)
        changes += now != wanted
        wanted = now
    assert wanted >= 3
    assert changes <= 2 * 20 + 2, "at most once up and once down a minute, after the first"
