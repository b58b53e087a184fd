"""Amounts are integers of a currency's smallest unit, and a person reads them as money."""

from __future__ import annotations

import pytest

from seckill.currencies import amount_text, digits_of
from seckill.errors import UserMistake


@pytest.mark.parametrize(
    ("cents", "code", "text"),
    [
        (1999, "EUR", "19.99 EUR"),
        (5, "USD", "0.05 USD"),
        (-5, "USD", "-0.05 USD"),
        (1999, "JPY", "1999 JPY"),
        (1999, "KWD", "1.999 KWD"),
        (7, "KWD", "0.007 KWD"),
        (2**63 - 1, "CNY", "92233720368547758.07 CNY"),
    ],
)
def test_an_amount_has_the_digits_of_its_currency(cents: int, code: str, text: str) -> None:
    assert amount_text(cents, code) == text


@pytest.mark.parametrize("code", ["", "eur", "EURO", "ABC", "XAU", "__members__"])
def test_what_no_buyer_pays_in_is_no_currency(code: str) -> None:
    with pytest.raises(UserMistake, match="ISO 4217"):
        digits_of(code)
