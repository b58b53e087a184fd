"""Payments that the shop's own checkout takes: its server reports them, begins and ends them.

Money that cannot pay its order is answered 409 with `refund: true`, and listed until the shop
reports that it went back. Every call may be repeated: a reference is booked once.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from gateway.app_keys import EXTERNAL_PAYMENTS, SETTINGS
from gateway.http.contract import Parameter, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import json_body, parse_json, read_any_body, read_body
from gateway.http.responses import json_response
from gateway.overload.aiohttp_protocol import in_flight
from gateway.payments.external_contract import (
    BACK_EXAMPLE,
    CURSOR,
    DUE,
    DUE_EXAMPLE,
    HELD_EXAMPLE,
    ORDER,
    PAID_EXAMPLE,
    REFERENCE_OF_PATH,
    REPORT_EXAMPLE,
    ExternalPaymentList,
    ExternalPaymentReport,
    HeldOrderView,
    view_of,
    why_not,
)
from gateway.payments.external_orders import is_queued, order_of_path, sale_of
from gateway.payments.shop_identity import SHOP_SERVER, shop_server_of
from seckill import metrics
from seckill.currencies import digits_of
from seckill.errors import Missing, UserMistake, WrongState
from seckill.payments.external_payments import (
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
#: How a body that need not be there is refused.
_ANY_BODY = (Problem.TOO_SLOW, Problem.TOO_LARGE)
#: A payment with an unknown outcome has one within seconds, mostly.
AGAIN_S = "1"

_decoder = msgspec.json.Decoder(ExternalPaymentReport)


@operation(
    "Report a payment that the shop's own checkout has taken",
    ResponseSpec(200, "It pays the order, by this call or before.", PAID_EXAMPLE),
    tag="external-payments",
    parameters=[ORDER],
    identities=SHOP_SERVER,
    body=json_body(REPORT_EXAMPLE),
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
    order_id, wanted = order_of_path(request), parse_json(body, _decoder)
    _check(wanted)
    sale_id = await sale_of(request, order_id)
    report = PaymentReport(
        wanted.reference, order_id, sale_id, wanted.amount_cents, wanted.currency, wanted.paid_at
    )
    with in_flight(request):
        outcome, payment = await request.app[EXTERNAL_PAYMENTS].take(report)
        if outcome is ReportOutcome.NO_ORDER:
            if await is_queued(request, sale_id, order_id):
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
        200,
        "It is kept until `pay_by`. An order is kept once; again changes nothing.",
        HELD_EXAMPLE,
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
    order_id = order_of_path(request)
    sale_id = await sale_of(request, order_id)
    hold_s = request.app[SETTINGS].external_hold_s
    with in_flight(request):
        held = await request.app[EXTERNAL_PAYMENTS].hold(order_id, hold_s)
        if held is None and await is_queued(request, sale_id, order_id):
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
    ResponseSpec(200, "It is off the list, by this call or before.", BACK_EXAMPLE),
    tag="external-payments",
    parameters=[ORDER, REFERENCE_OF_PATH],
    identities=SHOP_SERVER,
    problems=[*_ANY_BODY, Problem.NOT_DUE],
)
async def return_external_payment(request: web.Request) -> web.Response:
    """Note that the shop has sent money back; a second time changes nothing."""
    actor = await shop_server_of(request, await read_any_body(request))
    order_id, reference = order_of_path(request), request.match_info["reference"]
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
    ResponseSpec(
        200, "A page, in the order of their reports.", ExternalPaymentList([DUE_EXAMPLE], "17")
    ),
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
    raise Refused(problem, why_not(payment), members=members)


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


def _query(request: web.Request, parameter: Parameter) -> str:
    text = request.query.get(parameter.name, "")
    if text and (parameter.pattern is None or not parameter.pattern.match(text)):
        raise Refused(Problem.BAD_REQUEST, parameter.description, field=parameter.name)
    return text
