"""The sales that a process knows: all live ones, and each other one that it was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterable

import asyncpg

from seckill.sales import listing
from seckill.sales.sales import Sale
from seckill.single_flight import SingleFlight

#: Least time between two readings of all live sales by one process. A sale that was never opened
#: may be edited and deleted, so it is read again after this time.
REFRESH_S = 1.0
#: Least time between two readings of sales that are not known. Such a reading finds rows by their
#: keys, so guessed ids cost PostgreSQL ten small queries a second, however many are guessed.
MISSING_S = 0.1
#: Sales that are remembered: half a kilobyte each.
KNOWN_MAX = 20_000


class SaleDirectory:
    """The sales by id and by number, cached.

    The terms of an opened sale never change, so it stays cached; `state` and the counts of units
    are as old as the entry. A miss waits for the next reading of what is missing.
    """

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
        self._by_id: dict[str, Sale] = {}
        self._by_number: dict[int, Sale] = {}
        #: Sale that was never opened -> monotonic time of its reading.
        self._unopened: dict[str, float] = {}
        self._missing_ids: set[str] = set()
        self._missing_numbers: set[int] = set()
        self._live = SingleFlight(self._read_live, interval_s=REFRESH_S)
        self._missing = SingleFlight(self._read_missing, interval_s=MISSING_S)

    def known(self, sale_id: str) -> Sale | None:
        """Return a sale from the cache alone."""
        return self._fresh(self._by_id.get(sale_id))

    async def get(self, sale_id: str) -> Sale | None:
        """Return a sale; raise Unavailable if it is not cached and PostgreSQL is unavailable."""
        if self.known(sale_id) is None:
            self._missing_ids.add(sale_id)
            await self._missing.now(lambda: self.known(sale_id) is not None)
        return self.known(sale_id)

    async def get_by_number(self, number: int) -> Sale | None:
        """Return the sale of a number, which each order_id contains; `get` says how."""
        if self._known_by_number(number) is None:
            self._missing_numbers.add(number)
            await self._missing.now(lambda: self._known_by_number(number) is not None)
        return self._known_by_number(number)

    async def recent(self) -> list[Sale]:
        """Return all live sales, as of at most REFRESH_S ago."""
        return await self._live.recent()

    def _known_by_number(self, number: int) -> Sale | None:
        return self._fresh(self._by_number.get(number))

    def _fresh(self, sale: Sale | None) -> Sale | None:
        if sale is None or sale.was_opened:
            return sale
        read_at = self._unopened.get(sale.sale_id, float("-inf"))
        return sale if time.monotonic() - read_at <= REFRESH_S else None

    async def _read_live(self) -> list[Sale]:
        sales = await listing.live_sales(self._db)
        self._remember(sales)
        return sales

    async def _read_missing(self) -> None:
        ids, self._missing_ids = self._missing_ids, set()
        numbers, self._missing_numbers = self._missing_numbers, set()
        self._remember(await listing.named(self._db, list(ids), list(numbers)))

    def _remember(self, sales: Iterable[Sale]) -> None:
        now = time.monotonic()
        for sale in sales:
            self._by_id.pop(sale.sale_id, None)  # the entry moves to the end
            self._by_id[sale.sale_id] = self._by_number[sale.number] = sale
            if sale.was_opened:
                self._unopened.pop(sale.sale_id, None)
            else:
                self._unopened[sale.sale_id] = now
        while len(self._by_id) > KNOWN_MAX:
            oldest = self._by_id.pop(next(iter(self._by_id)))
            self._by_number.pop(oldest.number, None)
            self._unopened.pop(oldest.sale_id, None)
