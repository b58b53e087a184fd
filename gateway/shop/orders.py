"""`/shop/v1/orders`: orders as the shop's programs read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from aiohttp import web

from gateway.app_keys import DB, REDIS
from gateway.http.contract import Parameter, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import ORDER_ID, SALE_ID, order_id_of
from gateway.http.responses import Moment, json_response
from gateway.http.shop_auth import shop_token
from gateway.shop.parameters import (
    LIMIT,
    OF_BUYER,
    OF_SALE,
    ORDER_CURSOR,
    SINCE,
    UNTIL,
    limit_of,
    moment_of,
    refuse_unknown,
    text_of,
)
from seckill.consistency import order_life
from seckill.shop import order_pages
from seckill.shop.order_pages import PAGE_MAX, OrderFilter, ShopOrder
from seckill.shop.tokens import Scope

#: Orders of a page for who does not say.
PAGE = 100
STATES = ("pending", "paying", "paid", "cancelled", "rejected", "refunding", "refunded")
OF_STATE = Parameter(
    "status",
    f"In this state alone: {', '.join(STATES)}.",
    re.compile(rf"({'|'.join(STATES)})\Z"),
    "paid",
    (Problem.BAD_REQUEST,),
    "query",
)
_FILTERS = (OF_SALE, OF_BUYER, OF_STATE, SINCE, UNTIL, LIMIT, ORDER_CURSOR)


class ShopOrderView(msgspec.Struct):
    """An order, from the moment it has a row. `version` grows with each change.

    What is said of its payment is null before it is paid. `provider_ref` is the provider's own id.
    """

    order_id: str
    sale_id: str
    buyer_id: str
    quantity: int
    amount_cents: int
    status: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(STATES)})]
    reason: str | None
    version: int
    created_at: Moment
    pay_by: Moment
    ended_at: Moment | None
    method: str | None
    paid_cents: int | None
    discount_cents: int | None
    coupon_id: str | None
    provider_ref: str | None
    refunded_cents: int
    currency: str


class OrderList(msgspec.Struct):
    """A page of orders, newest grabs first. `next` is the cursor of the next page, or null."""

    orders: Sequence[ShopOrderView]
    next: str | None


class LifeMomentView(msgspec.Struct):
    """Something that happened to an order, in words for a person."""

    at: Moment
    what: str
    details: dict[str, Any]


class OrderLifeView(msgspec.Struct):
    """All that the stores have of an order, oldest first. `status` may be `queued`, too."""

    order_id: str
    sale_id: str
    buyer_id: str | None
    status: str
    trace_id: str | None
    moments: Sequence[LifeMomentView]


_AT = datetime(2026, 11, 27, 12, tzinfo=UTC)
PAID = ShopOrderView(
    ORDER_ID.example,
    SALE_ID.example,
    "alice",
    1,
    1999,
    "paid",
    None,
    2,
    _AT,
    _AT + timedelta(minutes=15),
    None,
    "card",
    1999,
    0,
    None,
    "ch_1",
    0,
    "USD",
)
_LIFE = OrderLifeView(
    ORDER_ID.example, SALE_ID.example, "alice", "paid", None, [LifeMomentView(_AT, "grabbed", {})]
)


@operation(
    "List orders, newest grabs first",
    ResponseSpec(200, "A page. It may be short and yet have a next one.", OrderList([PAID], None)),
    tag="orders",
    parameters=_FILTERS,
    identities=[shop_token(Scope.ORDERS_READ)],
    problems=[Problem.RATE_LIMITED],
)
async def list_orders(request: web.Request) -> web.Response:
    """Answer with a page of orders."""
    refuse_unknown(request, *_FILTERS)
    wanted = OrderFilter(
        text_of(request, OF_SALE),
        text_of(request, OF_BUYER),
        text_of(request, OF_STATE),
        moment_of(request, SINCE),
        moment_of(request, UNTIL),
    )
    page = await order_pages.newest(
        request.app[DB],
        wanted,
        cursor=text_of(request, ORDER_CURSOR),
        limit=limit_of(request, default=PAGE, most=PAGE_MAX),
    )
    return json_response(OrderList([view_of_order(each) for each in page.orders], page.next))


@operation(
    "Show an order",
    ResponseSpec(200, "The order.", PAID),
    tag="orders",
    parameters=[ORDER_ID],
    identities=[shop_token(Scope.ORDERS_READ)],
    problems=[Problem.QUEUED, Problem.RATE_LIMITED],
)
async def show_shop_order(request: web.Request) -> web.Response:
    """Answer with one order."""
    return json_response(view_of_order(await order_of_path(request)))


@operation(
    "Show all that happened to an order",
    ResponseSpec(200, "Its whole life, as far as the stores have it.", _LIFE),
    tag="orders",
    parameters=[ORDER_ID],
    identities=[shop_token(Scope.ORDERS_READ)],
    problems=[Problem.RATE_LIMITED],
)
async def show_life(request: web.Request) -> web.Response:
    """Answer with the life of one order, also of one that is still queued."""
    life = await order_life.of_order(request.app[REDIS], request.app[DB], order_id_of(request))
    moments = [LifeMomentView(each.at, each.what, dict(each.details)) for each in life.moments]
    return json_response(
        OrderLifeView(
            life.order_id, life.sale_id, life.buyer_id, life.state, life.trace_id, moments
        )
    )


async def order_of_path(request: web.Request) -> ShopOrder:
    """Return the order that the path names, or refuse: it may be none, or have no row yet."""
    order_id = order_id_of(request)
    found = await order_pages.find(request.app[DB], order_id)
    if found is None:
        life = await order_life.of_order(request.app[REDIS], request.app[DB], order_id)
        raise Refused(Problem.QUEUED, f"order {order_id} is {life.state}")
    return found


def view_of_order(order: ShopOrder) -> ShopOrderView:
    """Return an order as it is sent."""
    return ShopOrderView(**asdict(order))
