"""The sales that a process knows, read again after a miss, at most once a second."""

from __future__ import annotations

import asyncpg

from seckill.sales.sales import Sale, all_sales
from seckill.single_flight import SingleFlight

#: Least time between two readings of all sales by one process.
REFRESH_S = 1.0


class SaleDirectory:
    """The sales by id and by number, cached.

    A miss waits for the reading of PostgreSQL that finds the sale, or else for the next one, of
    which there is at most one in REFRESH_S. So a sale that has just been created is found, and
    guessed ids cannot load the database.
    """

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
        self._by_id: dict[str, Sale] = {}
        self._by_number: dict[int, Sale] = {}
        self._reading = SingleFlight(self._read, interval_s=REFRESH_S)

    def known(self, sale_id: str) -> Sale | None:
        """Return a sale from the cache alone."""
        return self._by_id.get(sale_id)

    async def get(self, sale_id: str) -> Sale | None:
        """Return a sale; raise Unavailable if it is not cached and PostgreSQL is unavailable."""
        if sale_id not in self._by_id:
            await self._reading.now(lambda: sale_id in self._by_id)
        return self._by_id.get(sale_id)

    async def get_by_number(self, number: int) -> Sale | None:
        """Return the sale of a number, which each order_id contains; `get` says how."""
        if number not in self._by_number:
            await self._reading.now(lambda: number in self._by_number)
        return self._by_number.get(number)

    async def recent(self) -> list[Sale]:
        """Return all sales, as of at most REFRESH_S ago."""
        return await self._reading.recent()

    async def _read(self) -> list[Sale]:
        sales = await all_sales(self._db)
        self._by_id = {sale.sale_id: sale for sale in sales}
        self._by_number = {sale.number: sale for sale in sales}
        return sales
