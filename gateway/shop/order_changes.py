"""`POST /shop/v1/orders/{order_id}/…`: cancel an order, or refund it. Each happens once."""

from __future__ import annotations

from typing import Literal

import asyncpg
import msgspec
from aiohttp import web

from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import ORDER_ID, json_body, order_id_of, parse_json, read_body
from gateway.http.shop_auth import shop_token
from gateway.orders.traces import traced_order
from gateway.sales.changes import Reason
from gateway.shop.calls import CALLER
from gateway.shop.idempotency import IDEMPOTENCY_KEY, change_once, keyed_call
from gateway.shop.money import Cents
from gateway.shop.orders import PAID, ShopOrderView, order_of_path, view_of_order
from seckill.errors import Missing
from seckill.orders.orders import FINAL
from seckill.payments import refunds
from seckill.shop import order_changes, order_pages
from seckill.shop.tokens import Scope


class OrderReason(msgspec.Struct, forbid_unknown_fields=True):
    """Why; the buyer reads it, and the audit trail keeps it."""

    reason: Reason


class NewRefund(msgspec.Struct, forbid_unknown_fields=True):
    """What goes back: a part of the money, or all that is left, with the units and the coupon."""

    reason: Reason
    amount_cents: Cents | None = None


class Refund(msgspec.Struct):
    """`done`; `begun` until the card provider, or the shop, has given the money back; `refused`."""

    status: Literal["done", "begun", "refused"]
    order: ShopOrderView


_decoder = msgspec.json.Decoder(OrderReason)
_new_refund = msgspec.json.Decoder(NewRefund)
_CANCELLED = msgspec.structs.replace(PAID, status="cancelled", reason="wrong address", method=None)
_REFUND = Refund("done", msgspec.structs.replace(PAID, refunded_cents=500))


@operation(
    "Cancel an unpaid order",
    ResponseSpec(200, "It is cancelled, or had ended before.", _CANCELLED),
    tag="orders",
    parameters=[ORDER_ID, IDEMPOTENCY_KEY],
    identities=[shop_token(Scope.ORDERS_WRITE)],
    body=json_body(OrderReason("wrong address")),
    problems=[
        Problem.QUEUED,
        Problem.PAYMENT_IN_PROGRESS,
        Problem.NOT_CANCELLABLE,
        Problem.RATE_LIMITED,
    ],
)
async def cancel_shop_order(request: web.Request) -> web.Response:
    """Cancel an order that is not paid; its units are for sale again."""
    async with traced_order(request, "/shop/v1/orders/{order_id}/cancel"):
        order_id, caller, body = order_id_of(request), request[CALLER], await read_body(request)
        reason = parse_json(body, _decoder).reason
        await order_of_path(request)

        async def change(connection: asyncpg.Connection) -> bytes:
            await order_changes.cancel(connection, order_id, actor=caller.actor, reason=reason)
            order = await _order(connection, order_id)
            if order.status == "paying":
                raise Refused(Problem.PAYMENT_IN_PROGRESS)
            if order.status not in FINAL:
                advice = ": refund it instead" if order.status == "paid" else ""
                raise Refused(Problem.NOT_CANCELLABLE, f"it is {order.status}{advice}")
            return msgspec.json.encode(view_of_order(order))

        return await change_once(request, body, change)


@operation(
    "Refund a paid order, or a part of its money",
    ResponseSpec(200, "It is refunded, or that has begun.", _REFUND),
    tag="orders",
    parameters=[ORDER_ID, IDEMPOTENCY_KEY],
    identities=[shop_token(Scope.MONEY)],
    body=json_body(NewRefund("a scratch", 500)),
    problems=[Problem.CONFLICT, Problem.RATE_LIMITED],
)
async def refund_order(request: web.Request) -> web.Response:
    """Take a paid order back as a whole, or give a part of the money back; then it stays paid."""
    async with traced_order(request, "/shop/v1/orders/{order_id}/refunds"):
        order_id, caller, body = order_id_of(request), request[CALLER], await read_body(request)
        wanted, call = parse_json(body, _new_refund), keyed_call(request, body)
        why = {"actor": caller.actor, "reason": wanted.reason}

        async def change(connection: asyncpg.Connection) -> bytes:
            if wanted.amount_cents is None:
                state = await refunds.refund(connection, order_id, **why)
                status = "done" if state == "refunded" else "begun"
            else:
                status = await refunds.refund_part(
                    connection, order_id, wanted.amount_cents, key=call.made_id, **why
                )
            order = view_of_order(await _order(connection, order_id))
            return msgspec.json.encode({"status": status, "order": order})

        return await change_once(request, body, change)


async def _order(connection: asyncpg.Connection, order_id: str) -> order_pages.ShopOrder:
    order = await order_pages.find(connection, order_id)
    if order is None:
        raise Missing(f"there is no order {order_id}")
    return order
