"""expire_orders: cancels what the timer queues give back, unless it was paid or ended before."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from seckill import messages, orders, telemetry


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
        telemetry.EXPIRED.labels("timer").inc(len(ended))
