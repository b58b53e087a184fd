"""`GET /shop/v1/sales/{sale_id}/orders.csv`: all orders of a sale, streamed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import astuple, fields
from datetime import datetime

from aiohttp import web

from gateway.app_keys import DB
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem
from gateway.http.requests import SALE_ID, sale_id_of
from gateway.http.responses import COMMON
from gateway.http.shop_auth import shop_token
from gateway.shop.calls import TIME_LIMIT
from seckill.adapters.failures import store_failure
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.errors import TimedOut
from seckill.sales import sales
from seckill.shop import order_pages
from seckill.shop.csv_rows import csv_of
from seckill.shop.order_pages import PAGE_MAX, ShopOrder
from seckill.shop.tokens import Scope

log = logging.getLogger(__name__)

#: A page that its client does not take within this time: else some clients that read nothing would
#: keep all places for calls (`calls.IN_FLIGHT_MAX`).
TAKEN_S = 60.0

_HEAD = csv_of([[field.name for field in fields(ShopOrder)]])


@operation(
    "Export the orders of a sale",
    ResponseSpec(
        200,
        "CSV in UTF-8 with a line of names, oldest grabs first. A transfer that breaks off is not "
        "the whole: the store failed, or the client took nothing for a minute.",
        "",
        content_type="text/csv",
    ),
    tag="orders",
    parameters=[SALE_ID],
    identities=[shop_token(Scope.ORDERS_READ)],
    problems=[Problem.RATE_LIMITED],
)
async def export_orders(request: web.Request) -> web.StreamResponse:
    """Answer with a line for each order, page by page: no sale is too large for memory."""
    sale_id, db = sale_id_of(request), request.app[DB]
    await sales.find(db, sale_id)
    with database_errors_as_unavailable():
        opened_at = await db.fetchval("SELECT opened_at FROM sales WHERE sale_id = $1", sale_id)
    # The first page before the head: a store that fails at once is a 503, and no broken file.
    page = await _page(request, sale_id, opened_at, None)
    response = web.StreamResponse(
        headers={**COMMON, "Content-Disposition": f'attachment; filename="{sale_id}-orders.csv"'}
    )
    response.content_type, response.charset = "text/csv", "utf-8"
    request[TIME_LIMIT].reschedule(None)  # a large sale takes long; each page has its own limit
    await response.prepare(request)
    try:
        await _taken(response.write(_HEAD))
        while True:
            await _taken(response.write(csv_of(map(astuple, page.orders))))
            if page.next is None:
                break
            page = await _page(request, sale_id, opened_at, page.next)
        await _taken(response.write_eof())
    except Exception as error:
        if (failure := store_failure(error)) is None or request.transport is None:
            raise
        # The head is sent, so only a transfer without its end says that something is missing.
        log.warning("the export of sale %s broke off: %s", sale_id, failure)
        request.transport.abort()
    return response


async def _taken(writing: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(TAKEN_S):
            await writing
    except TimeoutError as error:
        raise TimedOut(f"its client took nothing for {TAKEN_S:g} s") from error


async def _page(
    request: web.Request, sale_id: str, opened_at: datetime | None, cursor: str | None
) -> order_pages.OrderPage:
    if opened_at is None:  # never opened: it has no orders
        return order_pages.OrderPage([], None)
    return await order_pages.oldest_of_sale(
        request.app[DB], sale_id, opened_at=opened_at, cursor=cursor, limit=PAGE_MAX
    )
