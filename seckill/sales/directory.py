"""The sales that a process knows: all live ones, and each other one that it was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg

from seckill.errors import Unavailable
from seckill.sales import listing
from seckill.sales.sales import Sale
from seckill.single_flight import SingleFlight

#: Least time between two readings of all live sales by one process. A sale whose terms may change
#: is read again after this time.
REFRESH_S = 1.0
#: Least time between two readings of sales that are not known. Such a reading finds rows by their
#: keys, so guessed ids cost PostgreSQL ten small queries a second, however many are guessed.
MISSING_S = 0.1
#: Sales that are remembered: half a kilobyte each.
KNOWN_MAX = 20_000


class SaleDirectory:
    """The sales by id and by number, cached.

    The terms of a sale that has begun never change, so it stays cached; `state` and the counts of
    units are as old as the entry. A miss waits for the next reading of what is missing.
    """

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
        self._by_id: dict[str, Sale] = {}
        self._by_number: dict[int, Sale] = {}
        #: Those that were opened, and that buyers may see: all that a grab has to look for.
        self._public: dict[str, Sale] = {}
        #: Sale whose terms may change -> monotonic time of its reading.
        self._changing: dict[str, float] = {}
        self._missing_ids: set[str] = set()
        self._missing_numbers: set[int] = set()
        self._rereading: asyncio.Task[None] | None = None
        self._live = SingleFlight(self._read_live, interval_s=REFRESH_S)
        self._missing = SingleFlight(self._read_missing, interval_s=MISSING_S)

    def public(self, sale_id: str) -> Sale | None:
        """Return a sale that was opened and that buyers may see, from the cache alone."""
        return self._public.get(sale_id)

    def known(self, sale_id: str) -> Sale | None:
        """Return a sale from the cache alone."""
        return self._usable(self._by_id.get(sale_id))

    async def get(self, sale_id: str) -> Sale | None:
        """Return a sale; raise Unavailable if it is not cached and PostgreSQL is unavailable.

        A sale that buyers see is returned at once, and read again meanwhile if its terms may
        change.
        """
        sale = self._by_id.get(sale_id)
        if self._is_stale(sale):
            self._missing_ids.add(sale_id)
            if sale is None or not sale.was_opened or sale.hidden:
                await self._missing.now(lambda: not self._is_stale(self._by_id.get(sale_id)))
            elif self._rereading is None or self._rereading.done():
                self._rereading = asyncio.create_task(self._reread(), name="reread sales")
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
        return self._usable(self._by_number.get(number))

    def _usable(self, sale: Sale | None) -> Sale | None:
        """Return an opened sale however old its entry is: no grab waits for PostgreSQL."""
        return sale if sale is not None and (sale.was_opened or not self._is_stale(sale)) else None

    def _is_stale(self, sale: Sale | None) -> bool:
        if sale is None:
            return True
        read_at = self._changing.get(sale.sale_id)
        return read_at is not None and time.monotonic() - read_at > REFRESH_S

    async def _reread(self) -> None:
        with suppress(Unavailable):  # no sale can be changed meanwhile
            await self._missing.now()

    async def _read_live(self) -> list[Sale]:
        sales = await listing.live_sales(self._db)
        self._remember(sales)
        return sales

    async def _read_missing(self) -> None:
        ids, self._missing_ids = self._missing_ids, set()
        numbers, self._missing_numbers = self._missing_numbers, set()
        found = await listing.named(self._db, list(ids), list(numbers))
        for gone in ids - {sale.sale_id for sale in found}:
            self._forget(gone)
        self._remember(found)

    def _remember(self, sales: Iterable[Sale]) -> None:
        now, today = time.monotonic(), datetime.now(UTC)
        for sale in sales:
            self._forget(sale.sale_id)  # the entry moves to the end
            self._by_id[sale.sale_id] = self._by_number[sale.number] = sale
            if sale.was_opened and not sale.is_hidden(today):
                self._public[sale.sale_id] = sale
            if sale.may_change(today):
                self._changing[sale.sale_id] = now
        while len(self._by_id) > KNOWN_MAX:
            self._forget(next(iter(self._by_id)))

    def _forget(self, sale_id: str) -> None:
        sale = self._by_id.pop(sale_id, None)
        if sale is not None:
            self._by_number.pop(sale.number, None)
            self._public.pop(sale_id, None)
            self._changing.pop(sale_id, None)
