"""When the grabs of a load run are due."""

from __future__ import annotations

from itertools import pairwise

import pytest

from loadtest.crowd.schedule import Arrivals, Schedule
from seckill.errors import UserMistake


def due_times(arrivals: Arrivals, rate: float, seconds: float, seed: int = 1) -> list[float]:
    return Schedule(rate=rate, seconds=seconds, arrivals=arrivals, seed=seed).due_times()


@pytest.mark.parametrize("arrivals", Arrivals)
def test_every_kind_is_in_order_within_the_time_and_offers_the_mean_rate(arrivals) -> None:
    dues = due_times(arrivals, 2_000, 5)
    assert dues == sorted(dues)
    assert dues[0] >= 0
    assert dues[-1] < 5
    # Poisson numbers vary: one in a million lies further from their mean than five deviations.
    assert abs(len(dues) - 10_000) <= (5 * 100 if arrivals is Arrivals.POISSON else 0)


def test_even_arrivals_have_the_same_distance() -> None:
    assert due_times(Arrivals.EVEN, 4, 1) == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_do_not_regard_each_other() -> None:
    dues = due_times(Arrivals.POISSON, 1_000, 20)
    gaps = [after - before for before, after in pairwise(dues)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05), "as only exponential distances have it"
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)


def test_poisson_arrivals_are_the_same_for_the_same_seed() -> None:
    assert due_times(Arrivals.POISSON, 100, 5) == due_times(Arrivals.POISSON, 100, 5, seed=1)
    assert due_times(Arrivals.POISSON, 100, 5) != due_times(Arrivals.POISSON, 100, 5, seed=2)


def test_a_spike_brings_half_of_all_in_the_tenth_after_the_opening() -> None:
    dues = due_times(Arrivals.SPIKE, 1_000, 10)
    early, opening = (sum(due < end for due in dues) for end in (2, 3))
    assert (early, opening - early, len(dues) - opening) == (500, 5_000, 4_500)


@pytest.mark.parametrize("rate", [0.1, 1, 3, 7])
def test_few_grabs_are_not_lost_in_rounding(rate) -> None:
    assert len(due_times(Arrivals.SPIKE, rate, 10)) == round(10 * rate)


@pytest.mark.parametrize("arrivals", Arrivals)
def test_a_schedule_without_a_grab_is_a_users_mistake(arrivals) -> None:
    with pytest.raises(UserMistake, match="raise --rate"):
        due_times(arrivals, 0.1, 0.01)
