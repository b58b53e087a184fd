"""`POST /v1/sales/{sale_id}/grabs`: the request that a million people send at once."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.admission import (
    ORDER_ID,
    SALE_ID,
    TICKET,
    buyer_of_ticket,
    find_sale,
    json_body,
    rate_limited,
    read_json,
)
from gateway.client_address import client_address
from gateway.desk import GrabResult
from gateway.door import came_at_of
from gateway.headers import COMMON
from gateway.operations import Answer, operation
from gateway.pace import PACE
from gateway.problems import CONTENT_TYPE, REFUSALS, Problem, Refused, problem_body, problem_headers
from gateway.resources import DESKS, GRABS_IN_HAND, LIMITER, SALES
from seckill import telemetry
from seckill.errors import Unavailable
from seckill.sales import Sale
from seckill.stock import Verdict


class GrabRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a buyer wants. A sale may allow fewer units (`per_order_max`)."""

    quantity: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1


class Grabbed(msgspec.Struct):
    """The units are reserved; the row of the order comes next."""

    order_id: str
    status: Literal["queued"]
    next_poll_ms: int


class GrabbedBefore(msgspec.Struct):
    """The buyer holds this order already."""

    order_id: str
    status: Literal["yours"]


_decoder = msgspec.json.Decoder(GrabRequest)

# The answers of the hot path are built once.
_REFUSALS = {
    verdict: (
        problem.value.status,
        problem_body(problem),
        {"Content-Type": CONTENT_TYPE, **problem_headers(problem)},
    )
    for verdict, problem in REFUSALS.items()
}
_LINKS = {
    name: {"order_id": "$response.body#/order_id"}
    for name in ("show_order", "stream_order", "pay_order", "cancel_order")
}
_JSON = {**COMMON, "Content-Type": "application/json"}
_COUNTERS = {verdict: telemetry.GRABS.labels(verdict.name.lower()) for verdict in Verdict}


@operation(
    "Reserve units for the ticket's buyer",
    Answer(
        202,
        "Reserved, and it cannot be lost. The order is placed next.",
        Grabbed(ORDER_ID.example, "queued", 500),
        links=_LINKS,
    ),
    Answer(
        200,
        "A repeat: the buyer's order, whatever the window or the stock say.",
        GrabbedBefore(ORDER_ID.example, "yours"),
        links=_LINKS,
    ),
    parameters=[SALE_ID],
    identities=[TICKET],
    body=json_body(GrabRequest(quantity=1)),
    problems=[Problem.RATE_LIMITED, *REFUSALS.values()],
)
async def grab(request: web.Request) -> web.Response:
    """Reserve units for the ticket's buyer and answer once that cannot be lost."""
    sale = await find_sale(request, request.app[SALES])
    buyer_id = buyer_of_ticket(request, sale.sale_id)
    wish = await read_json(request, _decoder)
    in_hand = request.app[GRABS_IN_HAND]
    came_at = came_at_of(request)
    in_hand.begin()
    try:
        verdict, order_id = await _reserve(request, sale, buyer_id, wish.quantity)
    except Unavailable:
        verdict, order_id = Verdict.UNAVAILABLE, ""
    finally:
        in_hand.end(came_at)
    _COUNTERS[verdict].inc()
    if verdict is Verdict.ACCEPTED:
        body = b'{"order_id":"%b","status":"queued","next_poll_ms":%d}'
        return _json(202, body % (order_id.encode(), request.app[PACE].next_poll_ms()))
    if verdict is Verdict.DUPLICATE:
        return _json(200, b'{"order_id":"%b","status":"yours"}' % order_id.encode())
    if verdict is Verdict.QUANTITY:
        raise Refused(
            Problem.BAD_REQUEST, f"at most {sale.per_order_max} an order", field="quantity"
        )
    status, body, headers = _REFUSALS[verdict]
    return web.Response(status=status, body=body, headers=headers)


async def _reserve(request: web.Request, sale: Sale, buyer_id: str, quantity: int) -> GrabResult:
    desk = request.app[DESKS].of(sale)
    if not desk.selling:
        told = await desk.look_up(buyer_id)
        if told.verdict is not Verdict.ACCEPTED:
            return told
    limiter = request.app[LIMITER]
    refusal = limiter.refusal_here(buyer_id, client_address(request))
    if refusal is None:
        # A place in the line beyond the units that are left would be a wait for nothing (F36).
        refusal = await limiter.refusal(sale.sale_id, "try", buyer_id, lambda: desk.left)
        if refusal is None:
            return await desk.grab(buyer_id, quantity)
        # So would any place once others have sold it all, of which this process may not know yet.
        told = await desk.look_up(buyer_id)
        if told.verdict is not Verdict.ACCEPTED:
            return told
    raise rate_limited(refusal)


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, headers=_JSON)
