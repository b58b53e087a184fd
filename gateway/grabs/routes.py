"""`POST /v1/sales/{sale_id}/grabs`: the request that a million people send at once."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from gateway.app_keys import SALES
from gateway.grabs.parser import DECODER, GrabRequest
from gateway.grabs.reservations import RESERVATIONS, GrabResult, SaleReservations
from gateway.grabs.responses import COUNTERS, HEADS, body_of, too_many
from gateway.http.auth import TICKET, buyer_of_ticket
from gateway.http.client_address import client_address
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import (
    REFUSALS,
    Problem,
)
from gateway.http.requests import ORDER_ID, SALE_ID, find_sale, json_body, read_json
from gateway.overload.aiohttp_protocol import came_at_of
from gateway.overload.concurrency_limit import GRABS_IN_FLIGHT
from gateway.overload.poll_schedule import POLL_SCHEDULE
from gateway.overload.rate_limiter import LIMITER, RateLimiter, rate_limited
from seckill import metrics
from seckill.errors import Unavailable
from seckill.inventory.reservations import Verdict
from seckill.sales.sales import Sale


class GrabAccepted(msgspec.Struct):
    """The units are reserved; the row of the order comes next."""

    order_id: str
    status: Literal["queued"]
    next_poll_ms: int


class GrabRepeated(msgspec.Struct):
    """The buyer holds this order already."""

    order_id: str
    status: Literal["yours"]


_LINKS = {
    name: {"order_id": "$response.body#/order_id"}
    for name in ("show_order", "stream_order", "pay_order", "cancel_order")
}


@operation(
    "Reserve units for the ticket's buyer",
    ResponseSpec(
        202,
        "Reserved, and it cannot be lost. The order is placed next.",
        GrabAccepted(ORDER_ID.example, "queued", 500),
        links=_LINKS,
    ),
    ResponseSpec(
        200,
        "A repeat: the buyer's order, whatever the window or the stock say.",
        GrabRepeated(ORDER_ID.example, "yours"),
        links=_LINKS,
    ),
    parameters=[SALE_ID],
    identities=[TICKET],
    body=json_body(GrabRequest(quantity=1)),
    problems=[Problem.RATE_LIMITED, *REFUSALS.values()],
)
async def grab(request: web.Request) -> web.Response:
    """Reserve units for the ticket's buyer and answer once that cannot be lost."""
    metrics.GRABS_BY_AIOHTTP.inc()
    sale = await find_sale(request, request.app[SALES])
    buyer_id = buyer_of_ticket(request, sale.sale_id)
    wish = await read_json(request, DECODER)
    in_hand = request.app[GRABS_IN_FLIGHT]
    came_at = came_at_of(request)
    in_hand.begin()
    try:
        result = await _reserve(request, sale, buyer_id, wish.quantity)
    except Unavailable:
        result = GrabResult(Verdict.UNAVAILABLE)
    finally:
        in_hand.end(came_at)
    COUNTERS[result.verdict].inc()
    if result.verdict is Verdict.QUANTITY:
        raise too_many(sale)
    status, headers = HEADS[result.verdict]
    return web.Response(
        status=status, body=body_of(result, request.app[POLL_SCHEDULE]), headers=headers
    )


async def _reserve(request: web.Request, sale: Sale, buyer_id: str, quantity: int) -> GrabResult:
    desk = request.app[RESERVATIONS].of(sale)
    if not desk.selling:
        told = await desk.look_up(buyer_id)
        if told.verdict is not Verdict.ACCEPTED:
            return told
    limiter = request.app[LIMITER]
    if refusal := limiter.refusal_here(buyer_id, client_address(request)):
        raise rate_limited(refusal)
    if take_token(limiter, desk, sale.sale_id):
        return await desk.grab(buyer_id, quantity)
    return await ask_and_grab(limiter, desk, sale.sale_id, buyer_id, quantity)


def take_token(limiter: RateLimiter, desk: SaleReservations, sale_id: str) -> bool:
    """Take a token of the sale's limit without asking Redis, if this process has one."""
    # A place in the line beyond the units that are left would be a wait for nothing (F36).
    return limiter.take(sale_id, "try", lambda: desk.left)


async def ask_and_grab(
    limiter: RateLimiter, desk: SaleReservations, sale_id: str, buyer_id: str, quantity: int
) -> GrabResult:
    """Grab for who was not given a token at once."""
    refusal = await limiter.ask(sale_id, "try", buyer_id)
    if refusal is None:
        return await desk.grab(buyer_id, quantity)
    # Any place in the line is for nothing, too, once others have sold it all, of which this
    # process may not know yet.
    told = await desk.look_up(buyer_id)
    if told.verdict is not Verdict.ACCEPTED:
        return told
    raise rate_limited(refusal)
