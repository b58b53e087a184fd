"""What is on sale: `GET /v1/sales` and `GET /v1/sales/{sale_id}`, read by anyone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem
from gateway.http.requests import SALE_ID, find_sale
from gateway.http.responses import Moment, json_response
from gateway.overload.aiohttp_protocol import in_flight
from gateway.sales.remaining_units import REMAINING_UNITS
from seckill.sales.sales import Sale

STATES = msgspec.Meta(extra_json_schema={"enum": ["created", "open", "paused", "closed"]})


class SaleView(msgspec.Struct):
    """One sale as buyers see it. `remaining` may lag a second; null while it is not known.

    `proof_bits` above 0: a ticket needs a solved challenge first.
    """

    sale_id: str
    state: Annotated[str, STATES]
    price_cents: int
    per_order_max: int
    opens_at: Moment | None
    closes_at: Moment | None
    payment_window_s: int
    proof_bits: int
    server_time: Moment
    sold_out: bool
    remaining: int | None


class SaleList(msgspec.Struct):
    """Every sale, oldest first."""

    sales: list[SaleView]


_EXAMPLE = SaleView(
    sale_id="sneakers-2026",
    state="open",
    price_cents=1999,
    per_order_max=1,
    opens_at=datetime(2026, 11, 27, 19, tzinfo=UTC),
    closes_at=None,
    payment_window_s=900,
    proof_bits=0,
    server_time=datetime(2026, 11, 27, 19, 0, 1, tzinfo=UTC),
    sold_out=False,
    remaining=499,
)


@operation(
    "List every sale",
    ResponseSpec(
        200,
        "Every sale, oldest first.",
        SaleList([_EXAMPLE]),
        links={
            name: {"sale_id": "$response.body#/sales/0/sale_id"}
            for name in ("show_sale", "issue_challenge", "issue_ticket", "grab", "show_mine")
        },
    ),
    tag="sales",
    problems=[Problem.UNAVAILABLE],
)
async def list_sales(request: web.Request) -> web.Response:
    """Answer with every sale."""
    with in_flight(request):
        remaining = await request.app[REMAINING_UNITS].read()
    return json_response(SaleList([_view(sale, left) for sale, left in remaining.values()]))


@operation(
    "Show one sale",
    ResponseSpec(200, "The sale.", _EXAMPLE),
    tag="sales",
    parameters=[SALE_ID],
)
async def show_sale(request: web.Request) -> web.Response:
    """Answer with one sale."""
    sale = await find_sale(request)
    with in_flight(request):
        remaining = await request.app[REMAINING_UNITS].read()
    # A sale made within the last second may not have been read yet: nothing of it is sold.
    return json_response(_view(*remaining.get(sale.sale_id, (sale, sale.total))))


def _view(sale: Sale, left: int | None) -> SaleView:
    return SaleView(
        sale_id=sale.sale_id,
        state=sale.state,
        price_cents=sale.price_cents,
        per_order_max=sale.per_order_max,
        opens_at=sale.opens_at,
        closes_at=sale.closes_at,
        payment_window_s=sale.payment_window_s,
        proof_bits=sale.proof_bits,
        server_time=datetime.now(UTC),
        sold_out=left == 0,
        remaining=left,
    )
