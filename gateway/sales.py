"""What is on sale: `GET /v1/sales` and `GET /v1/sales/{sale_id}`, read by anyone."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from gateway.admission import find_sale
from gateway.answers import json_response
from gateway.resources import SALE_BOARD, SALES
from seckill.sales import Sale


class SaleView(msgspec.Struct):
    """One sale as buyers see it. `remaining` may lag a second; null while it is not known.

    `proof_bits` above 0: a ticket needs a solved challenge first.
    """

    sale_id: str
    state: str
    price_cents: int
    per_order_max: int
    opens_at: datetime | None
    closes_at: datetime | None
    payment_window_s: int
    proof_bits: int
    server_time: datetime
    sold_out: bool
    remaining: int | None


async def list_sales(request: web.Request) -> web.Response:
    """Answer with every sale."""
    board = await request.app[SALE_BOARD].read()
    return json_response({"sales": [_view(sale, left) for sale, left in board.values()]})


async def show_sale(request: web.Request) -> web.Response:
    """Answer with one sale."""
    sale = await find_sale(request, request.app[SALES])
    board = await request.app[SALE_BOARD].read()
    # A sale made within the last second may not be on the board yet: nothing of it is sold.
    return json_response(_view(*board.get(sale.sale_id, (sale, sale.total))))


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
