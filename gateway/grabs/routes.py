"""`POST /v1/sales/{sale_id}/grabs`: the request that a million people send at once."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from aiohttp import web

from gateway.grabs.parser import DECODER, GrabRequest
from gateway.grabs.pipeline import PIPELINE
from gateway.grabs.responses import REFUSALS, web_response
from gateway.http.auth import TICKET, TICKET_HEADER, buyer_of_ticket
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import ORDER_ID, SALE_ID, find_sale, json_body, read_json
from gateway.overload.aiohttp_protocol import came_at_of
from gateway.overload.concurrency_limit import GRABS_IN_FLIGHT
from seckill import metrics
from seckill.inventory.reservations import Verdict
from seckill.spans import TRACEPARENT


class Grabbed(msgspec.Struct):
    """The units are reserved; the row of the order comes next."""

    order_id: str
    status: Literal["queued"]
    next_poll_ms: int


class GrabbedBefore(msgspec.Struct):
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
        Grabbed(ORDER_ID.example, "queued", 500),
        links=_LINKS,
    ),
    ResponseSpec(
        200,
        "A repeat: the buyer's order, whatever the window or the stock say.",
        GrabbedBefore(ORDER_ID.example, "yours"),
        links=_LINKS,
    ),
    tag="grabs",
    parameters=[SALE_ID],
    identities=[TICKET],
    body=json_body(GrabRequest(quantity=1)),
    problems=[Problem.RATE_LIMITED, Problem.TOO_FEW_LEFT, *REFUSALS.values()],
)
async def grab(request: web.Request) -> web.Response:
    """Reserve units for the ticket's buyer and answer once that cannot be lost."""
    metrics.GRABS_BY_AIOHTTP.inc()
    app = request.app
    sale = await find_sale(request)
    buyer_of_ticket(request, sale.sale_id)  # no body is read for who has no ticket
    wanted = await read_json(request, DECODER)
    app[GRABS_IN_FLIGHT].arrived()
    client = _Request()
    pending = app[PIPELINE].begin_grab(
        client,
        sale,
        request.headers[TICKET_HEADER],
        wanted.quantity,
        request.remote or "",
        request.headers.getall("X-Forwarded-For", ()),
        came_at_of(request),
        traceparent=request.headers.get(TRACEPARENT, ""),
    )
    try:
        return await client.answer
    finally:
        if pending is not None:
            pending.cancel()


class _Request:
    """A request of aiohttp that waits for the answer to its grab (a `GrabClient`)."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[web.Response] = asyncio.get_running_loop().create_future()

    def respond(self, verdict: Verdict, body: bytes) -> None:
        self.answer.set_result(web_response(verdict, body))

    def refuse(self, refused: Refused) -> None:
        self.answer.set_exception(refused)

    def shed(self) -> None:
        self.refuse(Refused(Problem.OVERLOADED))
