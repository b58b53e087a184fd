"""return_stock: units of ended orders go back to Redis, each exactly once."""

from __future__ import annotations

import asyncpg

from consumers.runner import Polled
from seckill import returns, telemetry
from seckill.stock import CALL_MAX, Stock

#: A given-back unit should be on sale again before a buyer presses the button a second time.
IDLE_S = 0.1


class ReturnStock:
    """Empties the stock_returns outbox into Redis."""

    def __init__(self, db: asyncpg.Pool, stock: Stock) -> None:
        self._db = db
        self._stock = stock

    async def run_once(self) -> Polled:
        """Give back one batch."""
        returned = await returns.return_batch(self._db, self._stock)
        telemetry.RETURNED.inc(returned.done)
        return Polled(returned.done, more=returned.done + returned.put_off == CALL_MAX)
