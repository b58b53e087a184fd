"""How many users are at a sale that opens."""

from __future__ import annotations

import pytest

from loadtest.locust_crowd.load_shape import CLOSING_S, EARLY_SHARE, FlashCurve

CURVE = FlashCurve(users=1000, opens_s=10.0, ends_s=40.0)
TICKS = [n / 10 for n in range(400)]


def users(curve: FlashCurve, t_s: float) -> int:
    found = curve.users_at(t_s)
    assert found is not None
    return found


def test_users_gather_until_the_opening_and_not_all_of_them() -> None:
    before = [users(CURVE, t) for t in TICKS if t < CURVE.opens_s]
    assert before[0] == 0
    assert before == sorted(before)
    assert before[-1] <= EARLY_SHARE * CURVE.users


def test_all_are_there_when_it_opens() -> None:
    assert users(CURVE, 9.999) <= EARLY_SHARE * 1000
    assert users(CURVE, 10.0) == 1000


def test_users_stay_and_then_leave_little_by_little() -> None:
    after = [users(CURVE, t) for t in TICKS if t >= CURVE.opens_s]
    assert after == sorted(after, reverse=True)
    assert after.count(1000) > 100
    last = users(CURVE, CURVE.ends_s - CLOSING_S - 0.001)
    assert last == pytest.approx(1000 / 16, rel=0.05)


def test_no_user_is_left_while_the_last_figures_come_in_and_then_it_is_over() -> None:
    assert users(CURVE, CURVE.ends_s - CLOSING_S) == 0
    assert users(CURVE, CURVE.ends_s - 0.001) == 0
    assert CURVE.users_at(CURVE.ends_s) is None


def test_an_open_sale_is_stormed_at_once() -> None:
    assert FlashCurve(7, 0.0, 30.0).users_at(0.0) == 7


@pytest.mark.parametrize("opens_s", [0.0, 5.0, 39.0, 100.0])
def test_there_are_never_more_users_than_asked_for(opens_s: float) -> None:
    curve = FlashCurve(3, opens_s, 40.0)
    assert {users(curve, t) for t in TICKS} <= {0, 1, 2, 3}
