"""What a payment is: who pays for which order, how, and why it may be refused."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from seckill.clock import now_ms

#: How a buyer may pay.
WALLET, CARD = "wallet", "card"


class PaymentRefusal(StrEnum):
    """Why a payment was refused: the words of the SQL functions."""

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


@dataclass(frozen=True, slots=True)
class Payment:
    """What a buyer asks for."""

    sale_id: str
    order_id: str
    buyer_id: str
    method: str = WALLET
    coupon_id: str | None = None

    def args(self) -> dict[str, str | None]:
        """Return it as the log keeps it."""
        return {
            "sale_id": self.sale_id,
            "order_id": self.order_id,
            "buyer_id": self.buyer_id,
            "method": self.method,
            "coupon_id": self.coupon_id,
        }


def new_tx_id() -> str:
    """Make the id of a payment; they sort by time."""
    return f"pay-{now_ms():012x}-{os.urandom(8).hex()}"
