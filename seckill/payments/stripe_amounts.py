"""Amounts as Stripe counts them: mostly in ISO 4217's smallest unit, with some exceptions.

https://docs.stripe.com/currencies: ISK and UGX are sent with two digits that must be 00, MGA with
none, and the last of three digits must be 0.
"""

from __future__ import annotations

from seckill.currencies import digits_of

_DIGITS = {"ISK": 2, "UGX": 2, "MGA": 0}


def to_stripe(cents: int, currency: str) -> int | None:
    """Return the amount for Stripe; None if Stripe cannot charge it."""
    ours = digits_of(currency)
    more = _DIGITS.get(currency, ours) - ours
    if more < 0:
        whole, rest = divmod(cents, 10**-more)
        return None if rest else whole
    if ours == 3 and cents % 10:
        return None
    return cents * int(10**more)


def from_stripe(amount: int, currency: str) -> int:
    """Return an amount of Stripe in ISO 4217's smallest unit."""
    ours = digits_of(currency.upper())
    more = _DIGITS.get(currency.upper(), ours) - ours
    return amount // int(10**more) if more > 0 else amount * int(10**-more)
