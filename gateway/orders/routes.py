"""`/v1/orders/{order_id}`: a buyer's orders, read by ticket or login, cancelled by login."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.http.auth import LOGIN, TICKET, buyer_of_any, buyer_of_login
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import ORDER_ID, SALE_ID, find_sale, order_id_of
from gateway.http.responses import Moment, json_response
from gateway.orders.lookup import ORDER_LOOKUP, QueuedGrab
from gateway.orders.traces import traced_order
from gateway.overload.aiohttp_protocol import in_flight
from gateway.overload.poll_schedule import POLL_SCHEDULE
from gateway.overload.rate_limiter import LIMITER, rate_limited
from seckill.orders.orders import FINAL, Order
from seckill.sales.sales import Sale

#: States that will change soon without the buyer.
MOVING = ("queued", "paying", "refunding")
STATES = msgspec.Meta(
    extra_json_schema={
        "enum": [
            "queued",
            "pending",
            "paying",
            "paid",
            "cancelled",
            "rejected",
            "refunding",
            "refunded",
        ]
    }
)


class PaymentAction(msgspec.Struct):
    """What the buyer has to do before the bank decides: open `url`, and come back from there."""

    url: str
    type: Literal["redirect"] = "redirect"


class OrderView(msgspec.Struct, omit_defaults=True):
    """An order as its buyer sees it.

    `queued` becomes `pending`: to be paid before `pay_by`, or it is `cancelled`. `paying` becomes
    `paid`, or `pending` again. `rejected`, `cancelled` and `refunded` are final; `reason` says why.
    `action` is there while a card payment waits for the buyer (3-D Secure).
    `next_poll_ms` is there while the state will change soon without the buyer.
    """

    order_id: str
    sale_id: str
    status: Annotated[str, STATES]
    quantity: int
    amount_cents: int
    currency: str
    reason: str | None = None
    pay_by: Moment | None = None
    next_poll_ms: int | None = None
    action: PaymentAction | None = None


#: An order, as an example for the document.
PENDING = OrderView(
    order_id=ORDER_ID.example,
    sale_id=SALE_ID.example,
    status="pending",
    quantity=1,
    amount_cents=1999,
    currency="EUR",
    pay_by=datetime(2026, 11, 27, 19, 15, tzinfo=UTC),
)
_CANCELLED = msgspec.structs.replace(PENDING, status="cancelled", reason="buyer", pay_by=None)


@operation(
    "Show an order",
    ResponseSpec(200, "The order, wherever it is on its way.", PENDING),
    tag="orders",
    parameters=[ORDER_ID],
    identities=[TICKET, LOGIN],
)
async def show_order(request: web.Request) -> web.Response:
    """Answer with one order."""
    sale, order_id = await sale_of_path(request)
    buyer_id = await buyer_of_any(request, sale.sale_id)
    with in_flight(request):
        order = await request.app[ORDER_LOOKUP].find(sale, order_id, buyer_id)
    return json_response(view_of(request, sale, order))


@operation(
    "Show the buyer's latest order in a sale",
    ResponseSpec(
        200,
        "The latest order.",
        PENDING,
        links={
            name: {"order_id": "$response.body#/order_id"} for name in ("pay_order", "cancel_order")
        },
    ),
    tag="orders",
    parameters=[SALE_ID],
    identities=[TICKET, LOGIN],
)
async def show_mine(request: web.Request) -> web.Response:
    """Answer with the buyer's latest order in a sale."""
    sale = await find_sale(request)
    buyer_id = await buyer_of_any(request, sale.sale_id)
    with in_flight(request):
        order = await request.app[ORDER_LOOKUP].find_mine(sale, buyer_id)
    return json_response(view_of(request, sale, order))


@operation(
    "Cancel an order, placed or still queued",
    ResponseSpec(
        200, "It is cancelled, or had ended before; a second time changes nothing.", _CANCELLED
    ),
    tag="orders",
    parameters=[ORDER_ID],
    identities=[LOGIN],
    problems=[
        Problem.RATE_LIMITED,
        Problem.PAYMENT_IN_PROGRESS,
        Problem.NOT_CANCELLABLE,
        Problem.CANCELLED_TOO_OFTEN,
    ],
)
async def cancel_order(request: web.Request) -> web.Response:
    """Cancel an order, placed or still queued; a second time changes nothing."""
    async with traced_order(request, "/v1/orders/{order_id}"):
        return await _cancel_order(request)


async def _cancel_order(request: web.Request) -> web.Response:
    buyer_id = await buyer_of_login(request)
    sale, order_id = await sale_of_path(request)
    # Counted by buyer: ids of orders can be made up, and each would get a turn of its own.
    refusal = await request.app[LIMITER].refusal(sale.sale_id, "cancel", buyer_id)
    if refusal is not None:
        raise rate_limited(refusal)
    order = await request.app[ORDER_LOOKUP].cancel(sale, order_id, buyer_id)
    if order is not None and order.state == "paying":
        raise Refused(Problem.PAYMENT_IN_PROGRESS)
    if order is not None and order.state not in FINAL:
        raise Refused(Problem.NOT_CANCELLABLE)
    return json_response(view_of(request, sale, order))


async def sale_of_path(request: web.Request) -> tuple[Sale, str]:
    """Return the sale and the id of the order that the path names, or refuse."""
    order_id = order_id_of(request)
    sale = await request.app[ORDER_LOOKUP].sale_of(order_id)
    if sale is None:
        raise Refused(Problem.NOT_FOUND, "you have no such order")
    return sale, order_id


def view_of(request: web.Request, sale: Sale, order: Order | QueuedGrab | None) -> OrderView:
    """Return an order as its buyer sees it, or refuse when the buyer has none."""
    if order is None:
        raise Refused(Problem.NOT_FOUND, "you have no such order")
    action = None
    if isinstance(order, QueuedGrab):
        status, amount, reason, pay_by = "queued", order.quantity * sale.price_cents, None, None
    else:
        status, amount, reason = order.state, order.amount_cents, order.reason
        pay_by = order.pay_by if status in ("pending", "paying") else None
        if status == "paying" and order.redirect_url:
            action = PaymentAction(order.redirect_url)
    return OrderView(
        order_id=order.order_id,
        sale_id=sale.sale_id,
        status=status,
        quantity=order.quantity,
        amount_cents=amount,
        currency=sale.currency,
        reason=reason,
        pay_by=pay_by,
        action=action,
        next_poll_ms=request.app[POLL_SCHEDULE].next_poll_ms() if status in MOVING else None,
    )
