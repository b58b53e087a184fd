"""sweep: cancels overdue orders by looking for them, so that no lost timer keeps an order."""

from __future__ import annotations

import logging
import time

import asyncpg
from redis.asyncio import Redis

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.consistency import history
from seckill.log_lines import log_orders
from seckill.orders import orders
from seckill.tracing import order_traces

log = logging.getLogger(__name__)

IDLE_S = 1.0
#: The sweep takes orders that are overdue by so much: the timers should have them first.
GRACE_S = 2.0
#: Orders cancelled in one transaction.
BATCH_MAX = 500


class Sweep:
    """Cancels overdue orders."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db

    async def run_once(self) -> Polled:
        """Cancel one batch; none while PostgreSQL may have forgotten that orders were paid."""
        if await history.is_back_in_time(self._redis, self._db):
            return Polled(0, more=False)
        start_ns = time.time_ns()
        ended = await orders.release_overdue(self._db, grace_s=GRACE_S, limit=BATCH_MAX)
        metrics.EXPIRED.labels("sweep").inc(len(ended))
        log_orders(log, logging.INFO, "orders_expired", "expired (sweep)", ended)
        await order_traces.record(self._db, "sweep: cancel overdue orders", ended, start_ns)
        return Polled(len(ended), more=len(ended) == BATCH_MAX)


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    return PollRole("sweep", Sweep(stores.redis, stores.db).run_once, idle_s=IDLE_S)
