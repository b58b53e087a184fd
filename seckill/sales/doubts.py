"""Terms that can be kept, and that may not be meant: said to an operator, never refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from seckill.currencies import amount_text, digits_of
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale

#: A price that changes so many times over is a slip of the decimal point.
TIMES = 100
#: Whole units of a currency beyond which a price has probably too many digits.
DEAR = 1_000_000
#: No sale is planned so far ahead: the year is mistyped.
FAR = timedelta(days=366)
#: A sale that is open for less has probably mistyped times.
SHORT = timedelta(minutes=1)


def doubts_about(new: NewSale | Sale, was: Sale | None = None) -> list[str]:
    """Return a line for each term that looks mistyped; `was` is the sale before a change."""
    return [*_price(new, was), *_times(new), *_units(new)]


def _price(new: NewSale | Sale, was: Sale | None) -> list[str]:
    cents, currency = new.price_cents, new.currency
    whole = 10 ** digits_of(currency)
    text = amount_text(cents, currency)
    before = was.price_cents if was and was.currency == currency else 0
    if before and cents and max(cents, before) >= TIMES * min(cents, before):
        text_before = amount_text(before, currency)
        return [f"the price goes from {text_before} to {text}; as before: price_cents {before}"]
    if cents == 0:
        return ["a unit is free; for a price of 19.99 give price_cents 1999"]
    if cents < whole:
        meant = amount_text(cents * whole, currency)
        return [f"a unit costs {text}; for {meant} give price_cents {cents * whole}"]
    if cents >= DEAR * whole:
        meant = amount_text(cents // whole, currency)
        return [f"a unit costs {text}; for {meant} give price_cents {cents // whole}"]
    return []


def _times(new: NewSale | Sale) -> list[str]:
    now = datetime.now(UTC)
    found = [
        f"{name} is {(at - now).days} days away ({at.isoformat()}): look at the year"
        for name, at in (("opens_at", new.opens_at), ("closes_at", new.closes_at))
        if at and at - now > FAR
    ]
    begins = new.opens_at or now
    if new.closes_at and new.closes_at - begins < SHORT:
        open_s = (new.closes_at - begins).total_seconds()
        found.append(f"it is open for {open_s:.0f} s: look at opens_at and closes_at")
    return found


def _units(new: NewSale | Sale) -> list[str]:
    units = new.stock if isinstance(new, NewSale) else new.total
    if new.per_order_max <= units:
        return []
    return [f"one order may take {new.per_order_max} of {units} units: look at per_order_max"]
