"""The terms of a sale as a shop gives them, and what is wrong with some."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from seckill.auth.proof_of_work import BITS_MAX
from seckill.currencies import DEFAULT_CURRENCY, digits_of
from seckill.errors import UserMistake
from seckill.sales.description import (
    Metadata,
    Name,
    PictureUrl,
    Sku,
    check_description,
    encode_metadata,
)

#: The largest bigint and integer of PostgreSQL.
AMOUNT_MAX = 2**63 - 1
UNITS_MAX = 2**31 - 1
#: More than anything costs; far enough below AMOUNT_MAX to multiply.
PRICE_CENTS_MAX = 10**15
#: A month: a buyer who has not paid by then will not pay.
PAYMENT_WINDOW_MAX_S = 30 * 86_400

#: No time of a sale is later. A second more than the last one of the year 9999 is no time at all.
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
#: An operator who types the present minute means now.
OPENED_JUST_NOW = timedelta(minutes=1)

Units = Annotated[int, Meta(ge=1, le=UNITS_MAX)]
Moment = Annotated[datetime, Meta(tz=True)]


class NewSale(Struct, frozen=True, forbid_unknown_fields=True):
    """The shop's terms of a new sale. Decoding checks each field by itself."""

    sale_id: str
    stock: Units
    price_cents: Annotated[int, Meta(ge=0, le=PRICE_CENTS_MAX)]
    per_order_max: Units = 1
    opens_at: Moment | None = None
    closes_at: Moment | None = None
    payment_window_s: Annotated[int, Meta(ge=1, le=PAYMENT_WINDOW_MAX_S)] = 900
    #: Leading zero bits of the work before a ticket (seckill/auth/proof_of_work.py); 0 for none.
    proof_bits: Annotated[int, Meta(ge=0, le=BITS_MAX)] = 0
    currency: str = DEFAULT_CURRENCY
    name: Name | None = None
    sku: Sku | None = None
    picture_url: PictureUrl | None = None
    hidden: bool = False
    #: A sale that has it is hidden until then.
    announce_at: Moment | None = None
    metadata: Metadata = {}

    def columns(self) -> dict[str, object]:
        """Return the columns of `sales` that have these terms."""
        return {name: getattr(self, name) for name in TERMS} | {
            "hidden": self.hidden or self.announce_at is not None,
            "metadata": encode_metadata(self.metadata),
        }


#: The terms that have a column of their name in `sales`.
TERMS = tuple(name for name in NewSale.__struct_fields__ if name not in ("sale_id", "stock"))


def check_terms(new: NewSale) -> None:
    """Raise UserMistake if terms, each fine by itself, do not go together."""
    if new.opens_at and new.closes_at and new.closes_at <= new.opens_at:
        raise UserMistake(
            f"a sale must close after it opens: it would open at {new.opens_at.isoformat()} "
            f"and close at {new.closes_at.isoformat()}",
            field="closes_at",
        )
    if new.opens_at and new.announce_at and new.announce_at > new.opens_at:
        raise UserMistake(
            f"a sale must be announced before it opens: it would open at "
            f"{new.opens_at.isoformat()} and be announced at {new.announce_at.isoformat()}",
            field="announce_at",
        )
    check_description(new.name, new.sku, new.picture_url, new.metadata)
    if new.price_cents * new.per_order_max > AMOUNT_MAX:
        raise UserMistake(
            f"price times units of an order must not exceed {AMOUNT_MAX} cents",
            field="price_cents",
        )
    digits_of(new.currency)  # raises if there is no such currency


def check_times(
    opens_at: datetime | None, closes_at: datetime | None, announce_at: datetime | None = None
) -> None:
    """Raise UserMistake if one of the times that an operator typed is over, or too far away."""
    now = datetime.now(UTC)
    for name, at, otherwise in (
        ("closes_at", closes_at, "a sale that an operator closes"),
        ("opens_at", opens_at, "a sale that is open once an operator opens it"),
        ("announce_at", announce_at, "a sale that is not hidden"),
    ):
        # An operator who types the present minute for a beginning means now.
        over = now if name == "closes_at" else now - OPENED_JUST_NOW
        if at and at <= over:
            raise UserMistake(
                f"{name} {at.isoformat()} is over (it is {now:%Y-%m-%dT%H:%M:%S}+00:00): "
                f"give a later time, or none for {otherwise}",
                field=name,
            )
        if at and at > LATEST:
            raise UserMistake(
                f"{name} {at.isoformat()} is after {LATEST.isoformat()}: "
                f"give an earlier time, or none for {otherwise}",
                field=name,
            )
