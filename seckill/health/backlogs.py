"""What waits for each role, read from the stores themselves.

What a store that is unavailable would know is unknown, never zero.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity
from redis.asyncio import Redis

from seckill.adapters import topology
from seckill.adapters.failures import store_failure
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.rabbitmq import Broker, link_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.inventory import outbox
from seckill.inventory.reservations import Stock
from seckill.outages import OUTAGES
from seckill.sales.directory import SaleDirectory

#: Role -> the rows that wait for it, and the column that has since when.
_ROWS = {
    "return_stock": ("stock_returns WHERE due_at <= now()", "due_at"),
    "sweep": ("orders WHERE state = 'pending' AND pay_by <= now()", "pay_by"),
    "recover": ("transactions WHERE due_at <= now()", "due_at"),
    "publish_events": ("events", "at"),
    "send_webhooks": (
        "webhook_deliveries JOIN webhook_endpoints USING (endpoint_id)"
        " WHERE state = 'pending' AND enabled",
        "queued_at",
    ),
}
#: Role -> the queue that it works on.
_QUEUES = {
    "place_orders": topology.ORDERS_PLACE,
    "expire_orders": topology.ORDERS_EXPIRE,
    "saga_steps": topology.SAGA_STEPS,
}


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for a role; None where that is not known, and then `note` says why."""

    size: int | None
    #: For queues: since when we have not seen the queue empty. Messages may have come and gone
    #: meanwhile, so the oldest is younger, unless it came before we first looked.
    oldest_age_s: float | None = None
    #: Consumers of the queue, as the broker counts them.
    consumers: int | None = None
    note: str | None = None


class Backlogs:
    """Reads the backlogs of all roles that have one."""

    def __init__(self, redis: Redis, db: asyncpg.Pool, broker: Broker) -> None:
        self._redis = redis
        self._stock = Stock(redis)
        self._db = db
        self._sales = SaleDirectory(db)
        self._queues = _Queues(broker)

    async def read(self) -> dict[str, Backlog]:
        """Return role -> backlog, for the roles that have one."""
        parts = await asyncio.gather(
            _known(tuple(_QUEUES), self._queues.read()),
            _known(("relay",), self._outboxes()),
            *(_known((role,), self._count(*rows)) for role, rows in _ROWS.items()),
        )
        return {role: backlog for part in parts for role, backlog in part.items()}

    async def close(self) -> None:
        """Leave the broker; the other stores are the caller's."""
        await self._queues.close()

    async def _count(self, rows: str, since: str) -> list[Backlog]:
        with database_errors_as_unavailable():
            row = await self._db.fetchrow(
                f"SELECT count(*), extract(epoch FROM now() - min({since}))::float8 FROM {rows}"  # noqa: S608 - ours
            )
        return [Backlog(row[0], row[1] or 0.0)]

    async def _outboxes(self) -> list[Backlog]:
        sale_ids = [sale.sale_id for sale in await self._sales.recent()]
        size = sum(await outbox.sizes(self._redis, sale_ids))
        oldest_ms = await outbox.oldest_ms(self._redis, sale_ids) if size else None
        age_ms = max(await self._stock.now_ms() - oldest_ms, 0) if oldest_ms else 0
        return [Backlog(size, age_ms / 1000)]


class _Queues:
    """Reads the queues over one link, which is opened again after it broke."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._link = AsyncExitStack()
        self._channel: AbstractChannel | None = None
        #: Queue -> when it was last seen empty, by the monotonic clock.
        self._empty_at: dict[str, float] = {}

    async def read(self) -> list[Backlog]:
        """Return what waits in each queue, in their order."""
        try:
            return [await self._look(queue) for queue in _QUEUES.values()]
        except Unavailable:
            await self.close()
            raise

    async def close(self) -> None:
        self._channel = None
        await self._link.aclose()

    async def _look(self, queue: str) -> Backlog:
        if self._channel is None or self._channel.is_closed:
            await self.close()
            self._channel = await self._link.enter_async_context(self._broker.channel())
        with link_errors_as_unavailable(f"looking at {queue}"):
            async with asyncio.timeout(self._broker.timeout_s):
                try:
                    # Passive: it makes nothing, and the answer has the figures of this moment.
                    declared = await self._channel.declare_queue(
                        topology.full_name(queue), passive=True
                    )
                except ChannelNotFoundEntity:  # its next consumer makes it: no failure
                    self._empty_at.pop(queue, None)
                    return Backlog(None, note=f"RabbitMQ has no queue {queue} yet")
        found, now = declared.declaration_result, time.monotonic()
        size = found.message_count or 0
        if size == 0:
            self._empty_at[queue] = now
        age_s = now - self._empty_at.setdefault(queue, now)
        return Backlog(size, age_s, found.consumer_count)


async def _known(roles: Sequence[str], reading: Awaitable[list[Backlog]]) -> dict[str, Backlog]:
    """Return what was read for the roles; unknown if the store is unavailable."""
    try:
        return dict(zip(roles, await reading, strict=True))
    except Exception as error:
        failure = store_failure(error)
        if failure is None:
            raise
        OUTAGES.failed(failure)
        return dict.fromkeys(roles, Backlog(None, note=str(failure)))
