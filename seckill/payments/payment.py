"""A payment: the order, the buyer, the method, and the reasons for a refusal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from seckill.clock import now_ms
from seckill.currencies import DEFAULT_CURRENCY
from seckill.spans import TRACEPARENT

#: The methods of payment. By `external` the shop's own checkout has taken the money.
WALLET, CARD, EXTERNAL = "wallet", "card", "external"


class PaymentRefusal(StrEnum):
    """Why a payment was refused, in the words of the SQL functions."""

    NO_ORDER = "no_order"
    PAID = "paid"
    PAYMENT_IN_PROGRESS = "payment_in_progress"
    EXPIRED = "expired"
    NOT_PAYABLE = "not_payable"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    COUPON_UNKNOWN = "coupon_unknown"
    COUPON_USED = "coupon_used"
    DECLINED = "declined"
    NO_CARDS = "no_cards"
    WRONG_CURRENCY = "wrong_currency"


@dataclass(frozen=True, slots=True)
class Payment:
    """A buyer's request to pay an order."""

    sale_id: str
    order_id: str
    buyer_id: str
    method: str = WALLET
    coupon_id: str | None = None
    #: The context in which a traced order is paid.
    traceparent: str | None = None
    #: For a card: the currency of the sale, the provider's name for the card, and where the buyer
    #: comes back to from the bank.
    currency: str = DEFAULT_CURRENCY
    token: str = ""
    return_url: str = ""
    #: The provider's own id of a charge that was made before.
    ref: str = ""

    def args(self) -> dict[str, str | None]:
        """Return the arguments that the log keeps."""
        trace = {TRACEPARENT: self.traceparent} if self.traceparent else {}
        return trace | {
            "sale_id": self.sale_id,
            "order_id": self.order_id,
            "buyer_id": self.buyer_id,
            "method": self.method,
            "coupon_id": self.coupon_id,
        }


def tx_id_of(order_id: str, number: int) -> str:
    """Return the id of an order's attempt to pay by card, counted from 0."""
    return f"card-{order_id}-{number}"


def new_tx_id() -> str:
    """Make the id of a payment; ids sort by time."""
    return f"pay-{now_ms():012x}-{os.urandom(8).hex()}"
