"""The terms of a sale as options of `seckill sale create` and `edit`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import typer

from seckill.auth import proof_of_work
from seckill.errors import UserMistake
from seckill.sales.terms import PAYMENT_WINDOW_MAX_S, PRICE_CENTS_MAX, UNITS_MAX

STOCK = typer.Option(help="Units for sale.", min=1, max=UNITS_MAX)
PRICE_CENTS = typer.Option(
    help="Price of a unit, in cents (the smallest unit of its currency).",
    min=0,
    max=PRICE_CENTS_MAX,
)
CURRENCY = typer.Option(help="Three letters of ISO 4217; SECKILL_CURRENCY if it names none.")
PER_ORDER_MAX = typer.Option(help="Units one order may take.", min=1, max=UNITS_MAX)
OPENS_AT = typer.Option(help="ISO time, UTC without a zone; `now`: once it is opened.")
CLOSES_AT = typer.Option(help="ISO time, UTC without a zone; `never`: by an operator.")
PAYMENT_WINDOW = typer.Option(
    help="Seconds an unpaid order keeps its units.", min=1, max=PAYMENT_WINDOW_MAX_S
)
PROOF_BITS = typer.Option(
    help="Work before a ticket, in leading zero bits; each one more doubles it. 0: none.",
    min=0,
    max=proof_of_work.BITS_MAX,
)
NAME = typer.Option(help="What buyers read as its name.")
SKU = typer.Option(help="The shop's own number of what is sold.")
PICTURE_URL = typer.Option(help="An https address of a picture.")
METADATA = typer.Option(help="A JSON object for the sale's page; buyers can read it.")
ANNOUNCE_AT = typer.Option(help="ISO time; hidden from buyers until then. `now`: not hidden.")

#: The word for no time at all, by option.
_NONE = {"--opens-at": "now", "--closes-at": "never", "--announce-at": "now"}
_DAY = re.compile(r"\d{4}-?\d{2}-?\d{2}|\d{4}-?W\d{2}(-?\d)?")


def moment(option: str, text: str | None) -> datetime | None:
    """Return the time that an option gives; None for none.

    A day alone is the midnight at its beginning. Today is refused: who types it means its end.
    """
    if text is None or text == _NONE[option]:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserMistake(
            f"{option} {text!r}: give an ISO time such as 2030-11-11T20:00:00+08:00, "
            f"or {_NONE[option]}"
        ) from error
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if _DAY.fullmatch(text) and found <= datetime.now(UTC):
        raise UserMistake(
            f"{option} {text} is the midnight (UTC) at the beginning of that day, which is over; "
            f"type the time, too: {option} {found:%Y-%m-%d}T23:59:59"
        )
    return found


def doubts_about_times(typed: Mapping[str, str | None]) -> list[str]:
    """Return what to type instead of a time that leaves something open: a time or a zone."""
    found = []
    for option, text in typed.items():
        at = moment(option, text)
        if text is None or at is None:
            continue
        if _DAY.fullmatch(text):
            found.append(
                f"{option} {text} is the midnight (UTC) at the beginning of that day; "
                f"type the time, too: {option} {at:%Y-%m-%d}T20:00:00+00:00"
            )
        elif datetime.fromisoformat(text).tzinfo is None:
            found.append(
                f"{option} {text} names no zone and was taken as UTC; "
                f"type it: {option} {at.isoformat()}"
            )
    return found
