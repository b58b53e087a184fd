"""Waits double up to a limit, and what failed together does not come back together."""

from __future__ import annotations

import pytest

from seckill.backoff import Backoff


@pytest.mark.parametrize("shares", [(0.5, 1.0), (0.75, 1.25)])
@pytest.mark.parametrize("attempt", [1, 2, 5, 10, 10_000])
def test_waits_double_up_to_a_limit_and_are_spread(attempt, shares):
    whole = min(60.0, 2.0 ** min(attempt - 1, 10))
    waits = {Backoff(1.0, 60.0, shares).wait_s(attempt) for _ in range(100)}
    assert len(waits) > 1
    assert whole * shares[0] <= min(waits) <= max(waits) <= whole * shares[1]


def test_waits_of_one_share_are_exact():
    backoff = Backoff(0.2, 2.0, shares=(1.0, 1.0))
    assert [backoff.wait_s(attempt) for attempt in range(1, 6)] == [0.2, 0.4, 0.8, 1.6, 2.0]
