"""expire_orders: cancels the orders that a timer queue returns, unless they were paid or ended.

A timer that comes twice, or early, is harmless: `orders.release` ends an order once, and only when
its payment window is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage
from redis.asyncio import Redis

from consumers.resources import Resources
from consumers.runtime.queue_role import queue_role
from consumers.runtime.role import Role
from seckill import messages, metrics
from seckill.adapters import topology
from seckill.consistency import history
from seckill.log_lines import log_orders
from seckill.orders import orders
from seckill.spans import SpanKind, queue_attributes
from seckill.tracing import order_traces

log = logging.getLogger(__name__)

#: Orders cancelled in one transaction.
BATCH_MAX = 1_000


class ExpireOrders:
    """The handler of orders.expire."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Cancel the unpaid orders of all messages in one transaction."""
        order_ids: set[str] = set()
        for message in batch:
            order_ids.update(messages.decode_expire(message.body))
        if await history.is_back_in_time(self._redis, self._db):
            return  # they may be paid, which PostgreSQL forgot; the sweep has them later
        start_ns = time.time_ns()
        # Sorted, so that two processes lock rows in the same order.
        ended = await orders.release(
            self._db, sorted(order_ids), to_state="cancelled", reason="expired", overdue_only=True
        )
        metrics.EXPIRED.labels("timer").inc(len(ended))
        log_orders(log, logging.INFO, "orders_expired", "expired (timer)", ended)
        await order_traces.record(
            self._db,
            "process orders.expire",
            ended,
            start_ns,
            kind=SpanKind.CONSUMER,
            attributes=queue_attributes(topology.ORDERS_EXPIRE, "process"),
        )


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    handle = ExpireOrders(stores.redis, stores.db).handle
    return queue_role(stores, "expire_orders", topology.ORDERS_EXPIRE, handle, batch_max=BATCH_MAX)
