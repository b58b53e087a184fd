"""return_stock: returns the units of ended orders to Redis, each exactly once; finishes restocks.

A unit returns by deleting its holder (lua/return_units.lua), so that a repeat returns nothing.
"""

from __future__ import annotations

import logging
import time

import asyncpg

from consumers.resources import Resources
from consumers.runtime.activity import REST_S
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.inventory import stock_returns
from seckill.inventory.reservations import CALL_MAX, Stock
from seckill.log_lines import log_orders
from seckill.sales.restock import repair_totals
from seckill.tracing import order_traces

#: Between two looks when nothing was due: a unit that is given back is for sale a quarter of a
#: second later at most. Ten looks a second cost more at rest than those of any other role.
IDLE_S = 0.25
#: And when something was: more is likely to follow.
BUSY_S = 0.1
#: Restocks seldom break off, and no buyer owns the units that wait.
REPAIR_S = 5.0

log = logging.getLogger(__name__)


class ReturnStock:
    """Empties the stock_returns outbox into Redis."""

    def __init__(self, db: asyncpg.Pool, stock: Stock) -> None:
        self._db = db
        self._stock = stock
        self._repair_at = time.monotonic()

    async def run_once(self) -> Polled:
        """Return one batch; each REPAIR_S look for restocks that broke off."""
        if time.monotonic() >= self._repair_at:
            await self.repair()
            self._repair_at = time.monotonic() + REPAIR_S
        start_ns = time.time_ns()
        returned = await stock_returns.return_batch(self._db, self._stock)
        metrics.RETURNED.inc(returned.done)
        log_orders(log, logging.INFO, "units_returned", "units returned", returned.order_ids)
        await order_traces.record(self._db, "return units", returned.order_ids, start_ns)
        return Polled(returned.done, more=returned.done + returned.put_off == CALL_MAX)

    async def repair(self) -> list[str]:
        """Finish restocks that broke off between the stores; return their sales."""
        repaired = await repair_totals(self._db, self._stock)
        for sale_id in repaired:
            log.warning("sale %s: finished a restock that broke off", sale_id)
        return repaired


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    role = ReturnStock(stores.db, stores.stock)
    return PollRole("return_stock", role.run_once, idle_s=IDLE_S, busy_s=BUSY_S, rest_s=REST_S)
