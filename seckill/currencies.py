"""Currencies by their ISO 4217 codes. An amount is an integer of the currency's smallest unit.

`amount_cents` keeps its name for every currency: 1999 is 19.99 EUR, 1999 JPY, or 1.999 KWD.
"""

from __future__ import annotations

from functools import cache

from seckill.errors import UserMistake

#: The currency of a sale that names none.
DEFAULT_CURRENCY = "EUR"


@cache
def digits_of(code: str) -> int:
    """Return how many digits a currency has behind the point; raise UserMistake if unknown."""
    from iso4217 import Currency  # here: it reads its table when it is imported, 20 ms

    known = Currency.__members__.get(code)  # `eur` is a second name of EUR
    digits = known.exponent if known and known.code == code else None
    if digits is None:  # unknown, or no money that a buyer pays in: gold, units of account
        raise UserMistake(
            f"currency {code!r}: give the three letters of ISO 4217, such as EUR, CNY, JPY",
            field="currency",
        )
    return digits


def amount_text(cents: int, code: str) -> str:
    """Return an amount as a person reads it: `19.99 EUR`, `1999 JPY`, `1.999 KWD`."""
    digits = digits_of(code)
    whole, rest = divmod(abs(cents), 10**digits)
    sign = "-" if cents < 0 else ""
    return f"{sign}{whole}.{rest:0{digits}d} {code}" if digits else f"{sign}{whole} {code}"
