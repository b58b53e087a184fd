"""Times of a sale: what an operator may type, and what is computed with those of old sales."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from seckill.errors import UserMistake
from seckill.sales.sales import Sale
from seckill.sales.terms import LATEST, check_times

NOW = datetime.now(UTC)
#: What shops write for "never"; in the second, not even its zone can be changed.
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
BEYOND = NEVER.replace(tzinfo=timezone(timedelta(hours=-14)))


@pytest.mark.parametrize("at", [LATEST + timedelta(seconds=1), NEVER, BEYOND])
@pytest.mark.parametrize("name", ["opens_at", "closes_at", "announce_at"])
def test_times_that_nothing_can_be_added_to_are_refused_with_what_to_give(
    name: str, at: datetime
) -> None:
    times = {"opens_at": None, "closes_at": None}
    with pytest.raises(UserMistake, match="or none for a sale") as refused:
        check_times(**{**times, name: at})
    assert refused.value.field == name
    check_times(**{**times, name: LATEST})


@pytest.mark.parametrize("at", [NEVER, LATEST, NOW + timedelta(seconds=9)])
def test_a_sale_may_change_until_it_opens_however_far_that_is(at: datetime) -> None:
    sale = Sale("s", 1, 1999, 1, at, None, 900, 0, "open", True, False, 9, 1, "EUR")
    assert sale.may_change(NOW)


def test_a_sale_may_change_for_a_minute_after_it_opened() -> None:
    for ago_s, may_change in ((59, True), (61, False)):
        at = NOW - timedelta(seconds=ago_s)
        sale = Sale("s", 1, 1999, 1, at, None, 900, 0, "open", True, False, 9, 1, "EUR")
        assert sale.may_change(NOW) is may_change
