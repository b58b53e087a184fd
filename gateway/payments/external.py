"""Payments that the shop's own checkout takes: its server reports them, begins and ends them.

Money that cannot pay its order is answered 409 with `refund: true`, and listed until the shop
reports that it went back. Every call may be repeated: a reference is booked once.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.app_keys import EXTERNAL_PAYMENTS, REDIS, SALES, SETTINGS, STOCK
from gateway.http.contract import Parameter, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import json_body, parse_json, read_any_body, read_body
from gateway.http.responses import Moment, json_response
from gateway.overload.aiohttp_protocol import in_flight
from gateway.payments.shop_identity import SHOP_SERVER, shop_server_of
from seckill import metrics, order_ids
from seckill.currencies import digits_of
from seckill.errors import Missing, Unavailable, UserMistake, WrongState
from seckill.inventory import holders
from seckill.inventory.reservations import Verdict
from seckill.payments.external_payments import (
    CENTS_MAX,
    REFERENCE,
    ExternalPayment,
    PaymentReport,
    ReportOutcome,
)

log = logging.getLogger(__name__)

#: How far a payment may lie in our future: clocks differ.
AHEAD_MAX = timedelta(minutes=5)
#: No payment is older: what is before it is a mistake, such as 0.
OLDEST_YEAR = 2000
#: Payments of one page: 30 kB.
PAGE_MAX = 100
#: For a look at a sale alone: an id of a buyer that none can have.
_NO_BUYER = "/"
#: How a body that need not be there is refused.
_ANY_BODY = (Problem.TOO_SLOW, Problem.TOO_LARGE)
#: A payment with an unknown outcome has one within seconds, mostly.
AGAIN_S = "1"

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


_REPORT = ExternalPaymentReport(
    REFERENCE_OF_PATH.example, 1999, "EUR", datetime(2026, 11, 27, 19, 14, tzinfo=UTC)
)
_PAID = ExternalPaymentView(
    reference=_REPORT.reference,
    order_id=ORDER.example,
    sale_id="sneakers-2026",
    status="paid",
    refund=False,
    reason=None,
    amount_cents=1999,
    currency="EUR",
    paid_at=_REPORT.paid_at,
    reported_at=_REPORT.paid_at,
    changed_at=_REPORT.paid_at,
)
_DUE = msgspec.structs.replace(_PAID, status="refund_due", refund=True, reason="too_late")
_BACK = msgspec.structs.replace(_DUE, status="refunded", refund=False)
_HELD = HeldOrderView(
    ORDER.example,
    "sneakers-2026",
    "pending",
    1999,
    "EUR",
    datetime(2026, 11, 27, 19, 30, tzinfo=UTC),
)
_decoder = msgspec.json.Decoder(ExternalPaymentReport)


@operation(
    "Report a payment that the shop's own checkout has taken",
    ResponseSpec(200, "It pays the order, by this call or before.", _PAID),
    tag="external-payments",
    parameters=[ORDER],
    identities=SHOP_SERVER,
    body=json_body(_REPORT),
    problems=[
        Problem.REFUND_DUE,
        Problem.SENT_BACK,
        Problem.REFERENCE_USED,
        Problem.QUEUED,
        Problem.PAYMENT_IN_PROGRESS,
    ],
)
async def take_external_payment(request: web.Request) -> web.Response:
    """Take a report; the same one again has the same answer."""
    body = await read_body(request)
    await shop_server_of(request, body)
    order_id, wanted = _order_of(request), parse_json(body, _decoder)
    _check(wanted)
    sale_id = await _sale_of(request, order_id)
    report = PaymentReport(wanted.reference, order_id, sale_id, *_money_of(wanted))
    with in_flight(request):
        outcome, payment = await request.app[EXTERNAL_PAYMENTS].take(report)
        if outcome is ReportOutcome.NO_ORDER:
            if await _is_queued(request, sale_id, order_id):
                raise Refused(Problem.QUEUED, "not booked; report it again in a second")
            outcome, payment = await request.app[EXTERNAL_PAYMENTS].take(report, is_unknown=True)
    if payment is None:
        raise Refused(
            Problem.PAYMENT_IN_PROGRESS,
            "another payment of the order has no outcome yet; not booked; report it again",
            headers={"Retry-After": AGAIN_S},
        )
    return _answer(outcome, payment)


@operation(
    "Keep an order while its buyer is at the bank",
    ResponseSpec(
        200, "It is kept until `pay_by`. An order is kept once; again changes nothing.", _HELD
    ),
    tag="external-payments",
    parameters=[ORDER],
    identities=SHOP_SERVER,
    problems=[
        *_ANY_BODY,
        Problem.NOT_FOUND,
        Problem.QUEUED,
        Problem.PAYMENT_IN_PROGRESS,
        Problem.NOT_PAYABLE,
        Problem.EXPIRED,
    ],
)
async def begin_external_payment(request: web.Request) -> web.Response:
    """Keep an order beyond its time to pay, once."""
    await shop_server_of(request, await read_any_body(request))
    order_id = _order_of(request)
    sale_id = await _sale_of(request, order_id)
    hold_s = request.app[SETTINGS].external_hold_s
    with in_flight(request):
        held = await request.app[EXTERNAL_PAYMENTS].hold(order_id, hold_s)
        if held is None and await _is_queued(request, sale_id, order_id):
            raise Refused(Problem.QUEUED)
    if held is None:
        raise Refused(Problem.NOT_FOUND, f"there is no order {order_id}")
    if held.why is not None:
        raise Refused(_NOT_HELD[held.why], _DETAILS_NOT_HELD.get(held.why, ""))
    view = HeldOrderView(
        order_id, held.sale_id, "pending", held.amount_cents, held.currency, held.pay_by
    )
    return json_response(view)


@operation(
    "Report that the money of a payment went back",
    ResponseSpec(200, "It is off the list, by this call or before.", _BACK),
    tag="external-payments",
    parameters=[ORDER, REFERENCE_OF_PATH],
    identities=SHOP_SERVER,
    problems=[*_ANY_BODY, Problem.NOT_DUE],
)
async def return_external_payment(request: web.Request) -> web.Response:
    """Note that the shop has sent money back; a second time changes nothing."""
    actor = await shop_server_of(request, await read_any_body(request))
    order_id, reference = _order_of(request), request.match_info["reference"]
    if not re.match(REFERENCE, reference):
        raise Refused(Problem.BAD_REQUEST, "no reference can be this", field="reference")
    try:
        with in_flight(request):
            payment = await request.app[EXTERNAL_PAYMENTS].send_back(
                reference, actor=actor, order_id=order_id
            )
    except Missing as error:
        raise Refused(Problem.NOT_FOUND, str(error)) from error
    except WrongState as error:
        raise Refused(Problem.NOT_DUE, str(error)) from error
    return json_response(view_of(payment))


@operation(
    "List the payments of the shop's own checkout",
    ResponseSpec(200, "A page, in the order of their reports.", ExternalPaymentList([_DUE], "17")),
    tag="external-payments",
    parameters=[DUE, CURSOR],
    identities=SHOP_SERVER,
    problems=[*_ANY_BODY, Problem.UNAVAILABLE],
)
async def list_external_payments(request: web.Request) -> web.Response:
    """Answer with a page of payments, all or those whose money must go back."""
    await shop_server_of(request, await read_any_body(request))
    due_only, after = _query(request, DUE) == "true", int(_query(request, CURSOR) or 0)
    with in_flight(request):
        found = await request.app[EXTERNAL_PAYMENTS].page(
            after=after, due_only=due_only, limit=PAGE_MAX + 1
        )
    shown = found[:PAGE_MAX]
    more = str(shown[-1].number) if len(found) > PAGE_MAX else None
    return json_response(ExternalPaymentList([view_of(each) for each in shown], more))


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
_NOT_HELD = {
    "payment_in_progress": Problem.PAYMENT_IN_PROGRESS,
    "paid": Problem.NOT_PAYABLE,
    "expired": Problem.EXPIRED,
    "not_payable": Problem.NOT_PAYABLE,
}
_DETAILS_NOT_HELD = {"paid": "the order is paid; do not charge its buyer again"}


def _answer(outcome: ReportOutcome, payment: ExternalPayment) -> web.Response:
    word = "repeated" if outcome is ReportOutcome.KNOWN else payment.reason or payment.state
    if outcome is ReportOutcome.REFERENCE_USED:
        word = "reference_used"
    metrics.EXTERNAL_PAYMENTS.labels(word).inc()
    if outcome is ReportOutcome.REFERENCE_USED:
        raise Refused(
            Problem.REFERENCE_USED,
            f"{payment.reference} was reported for order {payment.order_id}, "
            f"{payment.amount_cents} {payment.currency}, paid at {payment.paid_at.isoformat()}; "
            "nothing was booked; give each payment a reference of its own",
        )
    if outcome is ReportOutcome.NEW:
        log.info(
            "external payment of order %s: %s",
            payment.order_id,
            word,
            extra={
                "event": "external_payment",
                "order_id": payment.order_id,
                "sale_id": payment.sale_id,
                "outcome": word,
            },
        )
    view = view_of(payment)
    if payment.state == "paid":
        return json_response(view)
    problem = Problem.REFUND_DUE if view.refund else Problem.SENT_BACK
    members = {k: v for k, v in msgspec.to_builtins(view).items() if k != "status"}
    raise Refused(problem, _why(payment), members=members)


def _why(payment: ExternalPayment) -> str:
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


def _money_of(wanted: ExternalPaymentReport) -> tuple[int, str, datetime]:
    return wanted.amount_cents, wanted.currency, wanted.paid_at


def _check(wanted: ExternalPaymentReport) -> None:
    """Refuse a value that is of the right form, and yet cannot be."""
    try:
        digits_of(wanted.currency)
    except UserMistake as error:
        raise Refused(Problem.BAD_REQUEST, str(error), field="currency") from error
    paid_at = wanted.paid_at
    if paid_at.year < OLDEST_YEAR or paid_at > datetime.now(UTC) + AHEAD_MAX:
        raise Refused(
            Problem.BAD_REQUEST,
            f"{paid_at.isoformat()} is no time of a payment: it lies in the future, or before "
            f"{OLDEST_YEAR}",
            field="paid_at",
        )


def _order_of(request: web.Request) -> str:
    """Return the order that the path names: any UUID, because money may come for any."""
    order_id = request.match_info["order_id"].lower()
    if ORDER.pattern is None or not ORDER.pattern.match(order_id):
        raise Refused(Problem.BAD_REQUEST, "not an order id", field="order_id")
    return order_id


async def _sale_of(request: web.Request, order_id: str) -> str | None:
    if not order_ids.PATTERN.match(order_id):
        return None
    sale = await request.app[SALES].get_by_number(order_ids.sale_number_of(order_id))
    return sale.sale_id if sale else None


async def _is_queued(request: web.Request, sale_id: str | None, order_id: str) -> bool:
    """Return whether Redis holds units for an order that has no row yet.

    All holders are read: the buyer is not known. That is seldom needed. Raise Unavailable while
    Redis cannot say; an archived sale has no holders.
    """
    sale = await request.app[SALES].get(sale_id) if sale_id else None
    if sale is None or sale.archived or not sale.was_opened:
        return False
    reply = await request.app[STOCK].find_holders(sale.sale_id, [_NO_BUYER])
    if reply.verdict is Verdict.UNAVAILABLE:
        raise Unavailable(f"Redis has lost sale {sale.sale_id}")
    found = await holders.find_holdings(request.app[REDIS], sale.sale_id, {order_id: None})
    return order_id in found


def _query(request: web.Request, parameter: Parameter) -> str:
    text = request.query.get(parameter.name, "")
    if text and (parameter.pattern is None or not parameter.pattern.match(text)):
        raise Refused(Problem.BAD_REQUEST, parameter.description, field=parameter.name)
    return text
