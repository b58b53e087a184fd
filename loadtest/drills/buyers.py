"""Buyers of the drills over HTTP: they grab until they have an order, and they pay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

from aiohttp import ClientError, ClientSession

from loadtest.stack import PATIENCE_S, BenchStack
from ops.buyers import flash_crowd
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

#: Connections of buyers who grab.
CONNECTIONS = 50
#: A buyer whose connection broke tries again after so long.
BROKEN_S = 1.0

T = TypeVar("T")


class PaymentReply(NamedTuple):
    """The answer to a payment. Status 0: the connection broke, the outcome is unknown."""

    status: int
    code: str = ""
    #: Seconds to wait before the next try; None where the answer asks for none.
    retry_after_s: float | None = None


#: Whether all units of a sale are held by orders that wait for their payment.
ALL_FROZEN = "SELECT frozen = total FROM inventory WHERE sale_id = $1"


async def place_orders(
    stack: BenchStack, url: str, sale: Sale, count: int, *, complete: str = ALL_FROZEN
) -> dict[str, str]:
    """Let so many buyers grab; return buyer -> order once every order is in PostgreSQL.

    `complete` is the query that says so.
    """
    missing = {buyer_id: ticket for _, buyer_id, ticket in stack.tickets([sale], count)}
    orders: dict[str, str] = {}
    deadline = time.monotonic() + PATIENCE_S
    while missing:
        if time.monotonic() > deadline:
            raise SeckillError(f"{len(missing):,} buyers have no order")
        connections = min(CONNECTIONS, len(missing))
        replies = flash_crowd(url, sale.sale_id, missing, connections=connections, presses=1)
        orders |= {r.buyer_id: r.order_id for r in await replies if r.order_id}
        missing = {buyer_id: t for buyer_id, t in missing.items() if buyer_id not in orders}
    await stack.until(complete, sale, "orders are missing")
    return orders


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Do some work for each item, for so many at once, beginning with the last."""
    waiting = list(items)

    async def worker() -> None:
        while waiting:
            await work(waiting.pop())

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def pay(
    http: ClientSession, order_id: str, method: str, login: dict[str, str]
) -> PaymentReply:
    """Ask once for a payment; the session's base URL is the gateway's."""
    path = f"/v1/orders/{order_id}/payments"
    try:
        async with http.post(path, json={"method": method}, headers=login) as response:
            body = await response.json(content_type=None)
            wait = response.headers.get("Retry-After")
            return PaymentReply(response.status, str(body.get("code")), wait and float(wait))
    except (ClientError, TimeoutError):
        return PaymentReply(0, retry_after_s=BROKEN_S)
