"""Finds an order wherever it is on its way, so that answers about it are true.

An order is in a sale's holders from the script on, and in PostgreSQL once a consumer has placed
it. Reading SQL, then the holders, then SQL again leaves no gap: what moved from one to the other
between the first two looks is found by the third.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import asyncpg
from aiohttp import web

from gateway.grabs.reservations import SaleReservations
from gateway.http.problems import Problem, Refused
from seckill.clock import now_ms
from seckill.errors import Conflict, Unavailable
from seckill.inventory.reservations import Holding, Verdict
from seckill.micro_batcher import MicroBatcher, answering_each
from seckill.order_ids import created_ms_of, sale_number_of
from seckill.orders import orders
from seckill.orders.orders import KnownState, Order, SaleBuyer
from seckill.sales.directory import SaleDirectory
from seckill.sales.sales import Sale

T = TypeVar("T")

#: While PostgreSQL is unavailable, a holder this young counts as queued: it has hardly had time to
#: be more.
YOUNG_MS = 10_000
#: The reason of an order that its buyer cancelled.
BUYER = "buyer"
#: Ids in one query: each is an index look-up, 500 of them take a few milliseconds.
READ_BATCH_MAX = 500


class QueuedGrab(Holding):
    """A grab that no row exists for yet."""


class OrderLookup:
    """Reads and cancels orders; reads of many requests go out as one query."""

    def __init__(
        self,
        db: asyncpg.Pool,
        sales: SaleDirectory,
        reservations_of: Callable[[Sale], SaleReservations],
        *,
        cancels_max: int,
    ) -> None:
        self._db = db
        self._cancels_max = cancels_max
        self._sales = sales
        self._reservations_of = reservations_of
        self._rows: MicroBatcher[str, Order | None] = MicroBatcher(
            answering_each(partial(orders.find_many, db)), max_batch=READ_BATCH_MAX, max_calls=2
        )
        self._latest: MicroBatcher[SaleBuyer, Order | None] = MicroBatcher(
            answering_each(partial(orders.find_latest, db)), max_batch=READ_BATCH_MAX, max_calls=2
        )

    async def sale_of(self, order_id: str) -> Sale | None:
        """Return the sale that an order id belongs to."""
        return await self._sales.get_by_number(sale_number_of(order_id))

    async def find(self, sale: Sale, order_id: str, buyer_id: str) -> Order | QueuedGrab | None:
        """Return a buyer's order; None when they have none of this id."""
        row, sql_error = await _attempt(self._rows.submit(order_id))
        if row is None:
            holding = await self._holding(sale, buyer_id)
            if holding is not None and holding.order_id == order_id:
                return _queued(holding, sql_error)
            if sql_error:
                raise sql_error
            row = await self._rows.submit(order_id)
        return row if row is not None and row.buyer_id == buyer_id else None

    async def find_mine(self, sale: Sale, buyer_id: str) -> Order | QueuedGrab | None:
        """Return a buyer's latest order in a sale; None when there has been none."""
        pair = SaleBuyer(sale.sale_id, buyer_id)
        latest, sql_error = await _attempt(self._latest.submit(pair))
        if latest is not None and latest.state in orders.LIVE:
            return latest
        holding = await self._holding(sale, buyer_id)
        if holding is None:
            if sql_error:
                raise sql_error
            return latest or await self._latest.submit(pair)
        if sql_error or latest is None or latest.order_id != holding.order_id:
            return await self.find(sale, holding.order_id, buyer_id)
        return latest

    async def find_changed(self, seen: Collection[KnownState]) -> Sequence[Order]:
        """Return those of many orders, each found before, that are in another state by now.

        One query of SQL alone: an order leaves the queue by getting a row, and keeps that.
        """
        return await orders.find_changed(self._db, seen)

    async def cancel(self, sale: Sale, order_id: str, buyer_id: str) -> Order | None:
        """Cancel a buyer's order if it can be; return it as it then is, None without one.

        Raise Refused if the buyer has cancelled too many orders of the sale. A buyer who grabs and
        cancels in turn would have the last unit nearly always: others do not know when it is free.
        """
        for _ in range(3):
            order = await self.find(sale, order_id, buyer_id)
            is_live = isinstance(order, QueuedGrab) or (order and order.state == "pending")
            if is_live and await self._cancelled(sale, buyer_id) >= self._cancels_max:
                raise Refused(Problem.CANCELLED_TOO_OFTEN, "it ends when its time to pay is over")
            if isinstance(order, QueuedGrab):
                await orders.cancel_unplaced(self._db, sale.sale_id, buyer_id, order, reason=BUYER)
            elif order is not None and order.state == "pending":
                await orders.release(self._db, [order_id], to_state="cancelled", reason=BUYER)
            else:
                return order
        raise Conflict(f"order {order_id} changed under three cancellations")

    async def _cancelled(self, sale: Sale, buyer_id: str) -> int:
        return await orders.count_cancelled(self._db, sale.sale_id, buyer_id, reason=BUYER)

    async def _holding(self, sale: Sale, buyer_id: str) -> Holding | None:
        verdict, holding = await self._reservations_of(sale).find_holding(buyer_id)
        if verdict is Verdict.UNAVAILABLE:
            raise Unavailable(f"Redis has lost sale {sale.sale_id}")
        return holding


async def _attempt(reading: Awaitable[T | None]) -> tuple[T | None, Unavailable | None]:
    """Return what was read, and the error that kept it from being read."""
    try:
        return await reading, None
    except Unavailable as error:
        return None, error


def _queued(holding: Holding, sql_error: Unavailable | None) -> QueuedGrab:
    if sql_error and now_ms() - created_ms_of(holding.order_id) > YOUNG_MS:
        raise sql_error
    return QueuedGrab(holding.order_id, holding.quantity)


ORDER_LOOKUP = web.AppKey("order_lookup", OrderLookup)
