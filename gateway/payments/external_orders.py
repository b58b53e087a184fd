"""Which order the shop's own checkout means: any id, and perhaps one without a row."""

from __future__ import annotations

from aiohttp import web

from gateway.app_keys import REDIS, SALES, STOCK
from gateway.http.problems import Problem, Refused
from gateway.payments.external_contract import ORDER
from seckill import order_ids
from seckill.errors import Unavailable
from seckill.inventory import holders
from seckill.inventory.reservations import Verdict

#: For a look at a sale alone: an id of a buyer that none can have.
_NO_BUYER = "/"


def order_of_path(request: web.Request) -> str:
    """Return the order that the path names: any UUID, because money may come for any."""
    order_id = request.match_info["order_id"].lower()
    if ORDER.pattern is None or not ORDER.pattern.match(order_id):
        raise Refused(Problem.BAD_REQUEST, "not an order id", field="order_id")
    return order_id


async def sale_of(request: web.Request, order_id: str) -> str | None:
    """Return the sale that an order id belongs to; None if there is none."""
    if not order_ids.PATTERN.match(order_id):
        return None
    sale = await request.app[SALES].get_by_number(order_ids.sale_number_of(order_id))
    return sale.sale_id if sale else None


async def is_queued(request: web.Request, sale_id: str | None, order_id: str) -> bool:
    """Return whether Redis holds units for an order that has no row yet.

    All holders are read: the buyer is not known. That is seldom needed. Raise Unavailable while
    Redis cannot say; an archived sale has no holders.
    """
    sale = await request.app[SALES].get(sale_id) if sale_id else None
    if sale is None or sale.archived or not sale.was_opened:
        return False
    reply = await request.app[STOCK].find_holders(sale.sale_id, [_NO_BUYER])
    if reply.verdict is Verdict.UNAVAILABLE:
        raise Unavailable(f"Redis has lost sale {sale.sale_id}")
    found = await holders.find_holdings(request.app[REDIS], sale.sale_id, {order_id: None})
    return order_id in found
