"""What calls about payments of the shop's own checkout take, and what they answer."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from gateway.http.contract import Parameter
from gateway.http.problems import Problem
from gateway.http.responses import Moment
from seckill.payments.external_payments import CENTS_MAX, REFERENCE, ExternalPayment

ORDER = Parameter(
    "order_id",
    "Names the order, as the grab's answer gave it.",
    re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z"),
    "019aab2f-4c00-8000-8005-5d3c1f0a2b7e",
    (Problem.BAD_REQUEST, Problem.UNAVAILABLE),
)
REFERENCE_OF_PATH = Parameter(
    "reference",
    "The shop's own reference of a payment.",
    re.compile(REFERENCE),
    "pi_3PqAbC2eZvKYlo2C",
    (Problem.BAD_REQUEST, Problem.NOT_FOUND, Problem.UNAVAILABLE),
)
DUE = Parameter(
    "due",
    "`true`: only money that must go back.",
    re.compile(r"(true|false)\Z"),
    "true",
    (Problem.BAD_REQUEST,),
    "query",
)
CURSOR = Parameter(
    "cursor",
    "The `next` of the page before.",
    re.compile(r"[0-9]{1,18}\Z"),
    "17",
    (Problem.BAD_REQUEST,),
    "query",
)

Status = Literal["paid", "refund_due", "refunded"]
Reason = Literal[
    "unknown_order", "too_late", "already_paid", "wrong_currency", "wrong_amount", "order_refunded"
]


class ExternalPaymentReport(msgspec.Struct, forbid_unknown_fields=True):
    """A payment that the shop's own checkout has taken.

    `reference` is the shop's own, once for each payment. `amount_cents` counts the smallest unit of
    the currency.
    """

    reference: Annotated[str, msgspec.Meta(pattern=f"^{REFERENCE}")]
    amount_cents: Annotated[int, msgspec.Meta(ge=0, le=CENTS_MAX)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
    paid_at: Moment


class ExternalPaymentView(msgspec.Struct):
    """A payment of the shop's own checkout. `refund` says that its money must go back now."""

    reference: str
    order_id: str
    sale_id: str | None
    status: Status
    refund: bool
    reason: Reason | None
    amount_cents: int
    currency: str
    paid_at: Moment
    reported_at: Moment
    changed_at: Moment


class ExternalPaymentList(msgspec.Struct):
    """Some payments, in the order of their reports. `next` is null on the last page."""

    payments: list[ExternalPaymentView]
    next: str | None = None


class HeldOrderView(msgspec.Struct):
    """An order whose buyer may go to the bank: what to charge, and until when it is kept."""

    order_id: str
    sale_id: str
    status: Literal["pending"]
    amount_cents: int
    currency: str
    pay_by: Moment


REPORT_EXAMPLE = ExternalPaymentReport(
    REFERENCE_OF_PATH.example, 1999, "EUR", datetime(2026, 11, 27, 19, 14, tzinfo=UTC)
)
PAID_EXAMPLE = ExternalPaymentView(
    reference=REPORT_EXAMPLE.reference,
    order_id=ORDER.example,
    sale_id="sneakers-2026",
    status="paid",
    refund=False,
    reason=None,
    amount_cents=1999,
    currency="EUR",
    paid_at=REPORT_EXAMPLE.paid_at,
    reported_at=REPORT_EXAMPLE.paid_at,
    changed_at=REPORT_EXAMPLE.paid_at,
)
DUE_EXAMPLE = msgspec.structs.replace(
    PAID_EXAMPLE, status="refund_due", refund=True, reason="too_late"
)
BACK_EXAMPLE = msgspec.structs.replace(DUE_EXAMPLE, status="refunded", refund=False)
HELD_EXAMPLE = HeldOrderView(
    ORDER.example,
    "sneakers-2026",
    "pending",
    1999,
    "EUR",
    datetime(2026, 11, 27, 19, 30, tzinfo=UTC),
)


def view_of(payment: ExternalPayment) -> ExternalPaymentView:
    """Return a payment as the shop sees it."""
    return msgspec.convert(
        {
            **{name: getattr(payment, name) for name in _SHARED},
            "status": payment.state,
            "refund": payment.state == "refund_due",
        },
        ExternalPaymentView,
    )


_SHARED = [
    name for name in ExternalPaymentView.__struct_fields__ if name not in ("status", "refund")
]


def why_not(payment: ExternalPayment) -> str:
    """Return, for people, why money cannot pay its order."""
    match payment.reason:
        case "unknown_order":
            return f"there is no order {payment.order_id}"
        case "too_late":
            return "the order had ended, or its time to pay was over, before this was reported"
        case "already_paid":
            return "another payment had paid the order"
        case "order_refunded":
            return "it had paid the order, which was taken back since"
        case _:
            return (
                f"the order costs {payment.order_cents} {payment.order_currency}, "
                f"not {payment.amount_cents} {payment.currency}"
            )
