"""When units of sold-out sales may be for sale again: the next moment an unpaid order runs out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime

from seckill.errors import Unavailable

#: Least time between two readings: a page counts minutes down to such a moment.
READ_EVERY_S = 2.0

#: The moment of each sale that has one.
Moments = Mapping[str, datetime]


class UnitsBack:
    """Keeps the moments of all sales; reads them only while somebody looks at a sold-out sale."""

    def __init__(self, read: Callable[[], Awaitable[Moments]]) -> None:
        self._read = read
        self._moments: Moments = {}
        self._began_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def of(self, sale_id: str) -> datetime | None:
        """Return the moment of a sale if it is known; have them read again where that is due.

        No request waits for it, and while PostgreSQL is unavailable the last ones stay.
        """
        now = time.monotonic()
        if now - self._began_at >= READ_EVERY_S and (self._reading is None or self._reading.done()):
            self._began_at = now
            self._reading = asyncio.create_task(self._reread(), name="reread units back")
        return self._moments.get(sale_id)

    async def _reread(self) -> None:
        with suppress(Unavailable):
            self._moments = await self._read()
