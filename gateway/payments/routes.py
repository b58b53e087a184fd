"""`POST /v1/orders/{order_id}/payments`: pay an order."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.app_keys import SETTINGS
from gateway.http.auth import LOGIN, buyer_of_login
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import ORDER_ID, json_body, read_json
from gateway.http.responses import json_response
from gateway.orders.lookup import ORDER_LOOKUP, QueuedGrab
from gateway.orders.routes import PENDING, sale_of_path, view_of
from gateway.orders.traces import traced_order
from gateway.overload.aiohttp_protocol import in_flight
from gateway.overload.rate_limiter import RateLimited, rate_limited
from gateway.payments.tasks import PAYMENT_TASKS, PaymentTasks
from seckill.auth.tickets import ID
from seckill.orders.orders import Order
from seckill.payments.payment import CARD, WALLET, Payment, PaymentRefusal
from seckill.transactions.states import TransactionState
from seckill.transactions.tcc import CoordinatorFull

#: Providers' names are of these characters; ours has no meaning of its own for us.
CARD_NAME = r"^[A-Za-z0-9_-]{1,255}\Z"
#: The provider checks the rest. No other scheme: a browser would be sent to it.
RETURN_URL = r"^https?://[!-~]{1,2000}\Z"


class PaymentRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How a buyer pays: from his wallet or, where the shop takes cards, by card.

    A coupon lowers the price; what it is worth beyond that is lost. `payment_method` is what the
    provider's script in the browser calls the buyer's card; `return_url` is where the buyer comes
    back to from the bank.
    """

    method: Literal["wallet", "card"]
    coupon: Annotated[str, msgspec.Meta(pattern=f"^{ID.pattern}")] | None = None
    payment_method: Annotated[str, msgspec.Meta(pattern=CARD_NAME)] | None = None
    return_url: Annotated[str, msgspec.Meta(pattern=RETURN_URL)] | None = None


#: What each word of a refused payment is to a client. Any other word means that nothing was taken.
_PROBLEMS: dict[str | None, Problem] = {
    PaymentRefusal.NO_ORDER: Problem.NOT_FOUND,
    PaymentRefusal.PAYMENT_IN_PROGRESS: Problem.PAYMENT_IN_PROGRESS,
    PaymentRefusal.EXPIRED: Problem.EXPIRED,
    PaymentRefusal.NOT_PAYABLE: Problem.NOT_PAYABLE,
    PaymentRefusal.INSUFFICIENT_FUNDS: Problem.INSUFFICIENT_FUNDS,
    PaymentRefusal.COUPON_UNKNOWN: Problem.COUPON_REFUSED,
    PaymentRefusal.COUPON_USED: Problem.COUPON_REFUSED,
    PaymentRefusal.DECLINED: Problem.DECLINED,
    PaymentRefusal.NO_CARDS: Problem.NO_CARDS,
    PaymentRefusal.WRONG_CURRENCY: Problem.WRONG_CURRENCY,
}
_DETAILS: dict[str | None, str] = {
    PaymentRefusal.NO_ORDER: "you have no such order",
    PaymentRefusal.COUPON_UNKNOWN: "you have no such coupon",
    PaymentRefusal.COUPON_USED: "it is used, or another payment with it is under way",
}
_decoder = msgspec.json.Decoder(PaymentRequest)

_PAID = msgspec.structs.replace(PENDING, status="paid", pay_by=None)
_PAYING = msgspec.structs.replace(PENDING, status="paying", next_poll_ms=500)


@operation(
    "Pay an order",
    ResponseSpec(200, "It is paid, by this call or before.", _PAID),
    ResponseSpec(
        202,
        "It is being paid. The order tells how that ends: `paid`, or `pending` again; then a "
        "second call says why. With `action` the bank waits for the buyer: send them to its `url`.",
        _PAYING,
    ),
    tag="payments",
    parameters=[ORDER_ID],
    identities=[LOGIN],
    body=json_body(PaymentRequest("wallet")),
    problems=[
        Problem.RATE_LIMITED,
        Problem.QUEUED,
        *dict.fromkeys(_PROBLEMS.values()),
    ],
)
async def pay_order(request: web.Request) -> web.Response:
    """Pay an order; paying a paid order changes nothing."""
    async with traced_order(request, "/v1/orders/{order_id}/payments") as traceparent:
        return await _pay_order(request, traceparent)


async def _pay_order(request: web.Request, traceparent: str | None) -> web.Response:
    buyer_id = await buyer_of_login(request)
    sale, order_id = await sale_of_path(request)
    wanted = await read_json(request, _decoder)
    with in_flight(request):
        order = await request.app[ORDER_LOOKUP].find(sale, order_id, buyer_id)
    if order is None:
        raise _refused(PaymentRefusal.NO_ORDER)
    if isinstance(order, QueuedGrab):
        raise Refused(Problem.QUEUED)
    own_money = wanted.method == WALLET or wanted.coupon is not None
    if own_money and sale.currency != request.app[SETTINGS].currency:
        raise _refused(PaymentRefusal.WRONG_CURRENCY)
    if order.state == "paying" and order.redirect_url and wanted.method == CARD:
        # The buyer has closed the page of the bank, or never got its address.
        return json_response(view_of(request, sale, order), status=202)
    payment = Payment(
        sale.sale_id,
        order_id,
        buyer_id,
        wanted.method,
        wanted.coupon,
        traceparent,
        sale.currency,
        wanted.payment_method or "",
        wanted.return_url or "",
    )
    state, action_url = "paid", ""
    if not _is_paid(order):
        state, action_url = await _pay(request.app[PAYMENT_TASKS], payment)
    view = view_of(request, sale, replace(order, state=state, redirect_url=action_url))
    return json_response(view, status=200 if state == "paid" else 202)


def _is_paid(order: Order) -> bool:
    """Tell whether an order is paid already; refuse if it can no longer be paid."""
    if order.state == "paying":
        raise _refused(PaymentRefusal.PAYMENT_IN_PROGRESS)
    if order.state not in ("pending", "paid"):
        raise _refused(
            PaymentRefusal.EXPIRED if order.reason == "expired" else PaymentRefusal.NOT_PAYABLE
        )
    return order.state == "paid"


async def _pay(tasks: PaymentTasks, payment: Payment) -> tuple[str, str]:
    """Pay, or refuse; return the state that the order is then in, and the bank's page, if any."""
    try:
        outcome = await tasks.pay(payment)
    except CoordinatorFull as busy:
        raise Refused(Problem.OVERLOADED, "too many payments are under way") from busy
    if isinstance(outcome, RateLimited):
        raise rate_limited(outcome)
    if outcome is None or outcome.state in (TransactionState.TRYING, TransactionState.CONFIRMING):
        return "paying", outcome.detail if outcome else ""
    if outcome.confirmed or outcome.reason == PaymentRefusal.PAID:
        return "paid", ""
    raise _refused(outcome.reason, outcome.detail)


def _refused(word: str | None, detail: str = "") -> Refused:
    return Refused(_PROBLEMS.get(word, Problem.UNAVAILABLE), detail or _DETAILS.get(word, ""))
