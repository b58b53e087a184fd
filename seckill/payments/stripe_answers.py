"""What Stripe answers: PaymentIntents, refunds and errors, as far as they are read."""

from __future__ import annotations

import msgspec

from seckill.payments.provider import Charge, ChargeStatus
from seckill.payments.stripe_amounts import from_stripe

#: The names under which a PaymentIntent carries what is ours.
KEY, SALE, ORDER, REFUND = "seckill_key", "seckill_sale", "seckill_order", "seckill_refund"


class StripeError(msgspec.Struct):
    """An error; `code` and `decline_code` are stable words."""

    type: str = ""
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None

    @property
    def word(self) -> str:
        """Return the most exact of its words."""
        return self.decline_code or self.code or self.type


class StripeErrorBody(msgspec.Struct):
    """The body of an answer that is no success."""

    error: StripeError


class _Redirect(msgspec.Struct):
    url: str | None = None


class _NextAction(msgspec.Struct):
    redirect_to_url: _Redirect | None = None


class _LatestCharge(msgspec.Struct):
    amount_refunded: int = 0


class StripeIntent(msgspec.Struct):
    """A PaymentIntent, with its latest charge expanded."""

    id: str
    status: str
    amount: int = 0
    currency: str = "eur"
    metadata: dict[str, str] = {}
    next_action: _NextAction | None = None
    last_payment_error: StripeError | None = None
    latest_charge: _LatestCharge | str | None = None

    @property
    def refunded(self) -> int:
        """Return what went back of it, as Stripe counts."""
        charge = self.latest_charge
        return charge.amount_refunded if isinstance(charge, _LatestCharge) else 0

    @property
    def redirect_url(self) -> str:
        """Return where the buyer has to go; empty for nowhere."""
        redirect = self.next_action and self.next_action.redirect_to_url
        return (redirect and redirect.url) or ""

    def charge(self) -> Charge:
        """Return it in the words of the port."""
        error = self.last_payment_error
        return Charge(
            self._status(),
            self.metadata.get(KEY, ""),
            from_stripe(self.amount, self.currency),
            self.metadata.get(SALE, ""),
            self.metadata.get(ORDER, ""),
            self.id,
            self.redirect_url,
            error.word if error else "",
            from_stripe(self.refunded, self.currency),
        )

    def _status(self) -> ChargeStatus:
        match self.status:
            case "requires_capture":
                return ChargeStatus.AUTHORISED
            case "succeeded":
                is_back = 0 < self.amount <= self.refunded
                return ChargeStatus.VOIDED if is_back else ChargeStatus.CAPTURED
            case "canceled":
                return ChargeStatus.VOIDED
            case "requires_action":
                return ChargeStatus.REQUIRES_ACTION
            case "requires_payment_method" if self.last_payment_error:
                return ChargeStatus.DECLINED
            case "requires_payment_method" | "requires_confirmation":
                return ChargeStatus.UNKNOWN  # not confirmed: no money is held, and none will be
            case _:
                return ChargeStatus.PENDING


class StripeIntentPage(msgspec.Struct):
    """A page of a search."""

    data: list[StripeIntent]
    has_more: bool = False
    next_page: str | None = None


class StripeRefund(msgspec.Struct):
    """A refund."""

    id: str
    amount: int
    status: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def failed(self) -> bool:
        """Return whether the money stays with the shop."""
        return self.status in ("failed", "canceled")


class StripeRefundPage(msgspec.Struct):
    """The refunds of a PaymentIntent; Stripe takes far fewer than fit."""

    data: list[StripeRefund]
