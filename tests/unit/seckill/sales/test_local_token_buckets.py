"""The bucket of one process: exact, bounded, and forgetful of the oldest."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.limits import LocalLimit
from seckill.sales.token_buckets import LocalTokenBuckets


def buckets(rate: int = 10, burst: int = 3, names_max: int = 1000) -> LocalTokenBuckets:
    return LocalTokenBuckets(LocalLimit(rate=rate, burst=burst), names_max=names_max)


def test_a_burst_then_the_rate() -> None:
    local = buckets()
    assert [local.take("ann", 0.0) for _ in range(3)] == [0, 0, 0]
    assert local.take("ann", 0.0) == pytest.approx(0.1)
    assert local.take("ann", 0.05) == pytest.approx(0.05)
    assert local.take("ann", 0.1) == 0
    assert local.take("bob", 0.1) == 0


def test_a_refusal_costs_nothing() -> None:
    local = buckets()
    for _ in range(100):
        local.take("ann", 0.0)
    assert local.take("ann", 0.1) == 0


def test_rate_0_is_no_limit_and_remembers_no_name() -> None:
    local = buckets(rate=0)
    assert not any(local.take("ann", 0.0) for _ in range(1000))
    assert len(local) == 0


def test_memory_is_bounded_and_the_oldest_are_forgotten() -> None:
    local = buckets(names_max=10)
    for n in range(1000):
        local.take(f"n{n}", 0.0)
    assert len(local) == 10
    for _ in range(3):
        local.take("n999", 0.0)
    assert local.take("n999", 0.0) > 0, "the young are remembered"
    assert local.take("n5", 0.0) == 0, "the old are not"


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.integers(1, 50),
    st.integers(1, 10),
)
def test_never_above_the_bound_and_a_wait_that_is_obeyed_is_admitted(
    gaps: list[float], rate: int, burst: int
) -> None:
    local, now, taken = buckets(rate, burst), 0.0, []
    for gap in gaps:
        now += gap
        wait = local.take("ann", now)
        if wait:
            now += wait
            assert local.take("ann", now) == 0
        taken.append(now)
    for (i, first), (j, last) in itertools.combinations(enumerate(taken), 2):
        assert j - i + 1 <= rate * (last - first) + burst + 1e-6
