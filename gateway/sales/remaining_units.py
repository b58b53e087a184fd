"""The units left of single sales, read from Redis at most once a second however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import asyncpg
from aiohttp import web

from gateway.sales.pages import LAG_S, units_left
from seckill.errors import Unavailable
from seckill.inventory.reservations import Stock
from seckill.micro_batcher import MicroBatcher, answering_each
from seckill.outages import OUTAGES
from seckill.sales import listing
from seckill.sales.directory import SaleDirectory
from seckill.sales.sales import Sale
from seckill.single_flight import SingleFlight

#: Least time between two readings of the live sales. The rest of LAG_S is for the reading itself:
#: while it lasts, the one before is still good, and no request has to wait.
READ_EVERY_S = 0.75 * LAG_S
#: How long PostgreSQL is waited for, where the live sales are known: half of what the page may lag.
SALES_S = 0.5 * LAG_S
#: Other sales read in one round trip to each store.
LOOK_UPS_MAX = 512

#: A sale, and its units left; None where Redis has none.
SaleAndUnits = tuple[Sale, int | None]


class RemainingUnits:
    """A view of all live sales that lags at most LAG_S, and of any other on demand."""

    def __init__(self, db: asyncpg.Pool, sales: SaleDirectory, stock: Stock) -> None:
        self._db = db
        self._sales = sales
        self._stock = stock
        self._live = SingleFlight(self._read_live, interval_s=READ_EVERY_S)
        #: The last reading of the live sales, and when it began.
        self._seen: Mapping[str, SaleAndUnits] = {}
        self._seen_at = float("-inf")
        self._rereading: asyncio.Task[None] | None = None
        #: The reading of PostgreSQL that is under way.
        self._reading: asyncio.Task[list[Sale]] | None = None
        self._others: MicroBatcher[str, SaleAndUnits | None] = MicroBatcher(
            answering_each(self._read_others), max_batch=LOOK_UPS_MAX, max_calls=1
        )

    def peek(self, sale_id: str) -> SaleAndUnits | None:
        """Return a live sale and its units left if they are known; have them read again in time."""
        if self._rereading is None or self._rereading.done():
            self._rereading = asyncio.create_task(self._reread(), name="reread units")
        is_good = time.monotonic() - self._seen_at <= LAG_S
        return self._seen.get(sale_id) if is_good else None

    async def read(self, sale_id: str) -> SaleAndUnits | None:
        """Return a sale and its units left; None if there is no such sale."""
        live = await self._live.recent()
        return live[sale_id] if sale_id in live else await self._others.submit(sale_id)

    async def _read_others(self, sale_ids: Sequence[str]) -> list[SaleAndUnits | None]:
        sales = {sale.sale_id: sale for sale in await listing.named(self._db, list(sale_ids), [])}
        left = dict(zip(sales, await units_left(self._stock, list(sales)), strict=True))
        return [(sales[id_], left[id_]) if id_ in sales else None for id_ in sale_ids]

    async def _reread(self) -> None:
        with suppress(Unavailable):  # who asks next is told
            await self._live.now()

    async def _read_live(self) -> Mapping[str, SaleAndUnits]:
        began_at = time.monotonic()
        sales = await self._live_sales()
        left = await units_left(self._stock, [sale.sale_id for sale in sales])
        self._seen_at, self._seen = (
            began_at,
            {
                sale.sale_id: (sale, units if sale.was_opened else sale.total)
                for sale, units in zip(sales, left, strict=True)
            },
        )
        return self._seen

    async def _live_sales(self) -> list[Sale]:
        """Return the live sales; those of the last reading while PostgreSQL does not answer.

        No sale can be changed meanwhile.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._sales.recent(), name="live sales")
        known = [sale for sale, _ in self._seen.values()]
        if known:
            await asyncio.wait({self._reading}, timeout=SALES_S)
            if not self._reading.done():
                return known  # the next call waits for the same reading
        reading, self._reading = self._reading, None
        try:
            return await reading
        except Unavailable as error:
            if not known:
                raise
            OUTAGES.failed(error)
            return known


REMAINING_UNITS = web.AppKey("remaining_units", RemainingUnits)
