"""What rounds of grabs come to: medians, ratios, and what was promised of them."""

from __future__ import annotations

import pytest

from loadtest.bench import holders
from loadtest.bench.grab_costs import Growth, Point, Round
from loadtest.bench.growth import PROMISED, findings_of, ratio_of
from seckill.errors import UserMistake


def point(size: int, *times_us: float, redis_us: float = 5) -> Point:
    return Point(size, [Round(1000, time_us, time_us - 20, redis_us) for time_us in times_us])


def growth(*points: Point) -> Growth:
    return Growth("holders", list(points))


def test_a_ratio_is_of_medians_so_that_one_slow_round_does_not_count() -> None:
    grown = growth(point(10_000, 100, 101, 900), point(10_000_000, 110, 500, 111.1, redis_us=10))
    assert grown.ratio == pytest.approx(1.1)
    assert grown.cpu_ratio == pytest.approx(101.1 / 86)


@pytest.mark.parametrize(("most_us", "reached"), [(129, True), (131, False)])
def test_the_promise_compares_the_most_with_few_and_not_with_the_fewest(most_us, reached) -> None:
    grown = growth(point(1_000, 50), point(10_000, 100), point(10_000_000, most_us))
    (finding,) = ratio_of(grown, 10_000, PROMISED)
    assert finding.reached is reached
    assert finding.name == "holders: 10,000,000 by 10,000"


def test_without_more_than_few_nothing_is_compared() -> None:
    grown = growth(point(1_000, 50), point(10_000, 100))
    assert ratio_of(grown, 10_000, PROMISED) == []
    assert [f.reached for f in findings_of(grown)] == [None, None]


def test_more_holders_than_memory_are_refused_with_a_number_that_fits() -> None:
    with pytest.raises(UserMistake, match=r"give --holders-max 10+$") as refused:
        holders.check_memory(10**12)
    fits = int(str(refused.value).rpartition(" ")[2])
    holders.check_memory(fits)
