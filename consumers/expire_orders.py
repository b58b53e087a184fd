"""expire_orders: cancels what the timer queues give back, unless it was paid or ended before."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from seckill import messages, orders, telemetry, topology
from seckill.broker import Publisher
from seckill.messages import BadMessage

log = logging.getLogger(__name__)


class ExpireOrders:
    """The handler of orders.expire. A message that comes twice, or early, is harmless."""

    def __init__(self, db: asyncpg.Pool, publisher: Publisher) -> None:
        self._db = db
        self._publisher = publisher

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Cancel the unpaid orders of all messages in one transaction."""
        order_ids: set[str] = set()
        for message in batch:
            try:
                order_ids.update(messages.decode_expire(message.body))
            except BadMessage as error:
                queue = topology.dead(topology.ORDERS_EXPIRE)
                log.error("dead letter on %s: %s", queue, error)
                telemetry.DEAD.labels(queue).inc()
                await self._publisher.publish(queue, message.body, {"x-reason": str(error)[:1000]})
        # Sorted, so that two processes lock rows in one order.
        ended = await orders.release(
            self._db, sorted(order_ids), to_state="cancelled", reason="expired", overdue_only=True
        )
        telemetry.EXPIRED.labels("timer").inc(len(ended))
