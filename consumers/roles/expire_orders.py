"""expire_orders: cancels what the timer queues give back, unless it was paid or ended before."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from consumers.resources import Resources
from consumers.runtime.queue_role import queue_role
from consumers.runtime.role import Role
from seckill import messages, metrics
from seckill.adapters import topology
from seckill.orders import orders


class ExpireOrders:
    """The handler of orders.expire. A message that comes twice, or early, is harmless."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Cancel the unpaid orders of all messages in one transaction."""
        order_ids: set[str] = set()
        for message in batch:
            order_ids.update(messages.decode_expire(message.body))
        # Sorted, so that two processes lock rows in one order.
        ended = await orders.release(
            self._db, sorted(order_ids), to_state="cancelled", reason="expired", overdue_only=True
        )
        metrics.EXPIRED.labels("timer").inc(len(ended))


#: Orders cancelled in one transaction.
EXPIRE_BATCH_MAX = 1_000


def build(stores: Resources) -> Role:
    """Return the role, on the stores of this process."""
    handler = ExpireOrders(stores.db)
    return queue_role(
        stores, "expire_orders", topology.ORDERS_EXPIRE, handler.handle, EXPIRE_BATCH_MAX
    )
