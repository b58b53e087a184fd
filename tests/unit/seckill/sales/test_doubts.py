"""What an operator is asked about the terms of a sale."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from seckill.sales.doubts import doubts_about
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale

NOW = datetime.now(UTC)
WAS = Sale("s", 1, 1999, 1, None, None, 900, 0, "created", False, False, 9, 1, "EUR")


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"price_cents": 1999}, None),
        ({"price_cents": 19}, "for 19.00 EUR give price_cents 1900"),
        ({"price_cents": 1}, "for 1.00 EUR give price_cents 100"),
        ({"price_cents": 0}, "free"),
        ({"price_cents": 199_900_000}, "for 19990.00 EUR give price_cents 1999000"),
        ({"price_cents": 19, "currency": "JPY"}, None),
        ({"price_cents": 999, "currency": "KWD"}, "costs 0.999 KWD"),
        ({"opens_at": NOW + timedelta(days=800)}, "look at the year"),
        ({"closes_at": NOW + timedelta(seconds=20)}, "look at opens_at and closes_at"),
        ({"per_order_max": 10}, "look at per_order_max"),
    ],
)
def test_terms_that_nobody_may_have_meant_are_named(terms, words) -> None:
    found = doubts_about(NewSale(**({"sale_id": "s", "stock": 9, "price_cents": 1999} | terms)))
    assert (found == []) if words is None else (words in found[0]), found


@pytest.mark.parametrize(("cents", "doubted"), [(199_900, True), (19, True), (2999, False)])
def test_a_price_that_moves_its_point_is_named(cents: int, doubted: bool) -> None:
    found = doubts_about(NewSale("s", 9, cents), WAS)
    assert bool(found) == doubted
    assert not doubted or "as before: price_cents 1999" in found[0]
