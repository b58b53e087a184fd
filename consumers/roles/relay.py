"""relay: what lies in an outbox too long was never confirmed; send it again.

A gateway that died between the script and the broker leaves its batch here, and so does every
gateway while the broker is away. Sending twice is harmless: an order_id becomes a row once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby

from redis.asyncio import Redis
from redis.exceptions import LockError

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import messages, metrics
from seckill.adapters import redis_keys, topology
from seckill.adapters.rabbitmq import Publisher
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.inventory import outbox
from seckill.inventory.outbox import OutboxEntry
from seckill.inventory.reservations import CALL_MAX, Stock
from seckill.messages import MESSAGE_GRABS_MAX
from seckill.sales.directory import SaleDirectory

#: The youngest entry worth looking at is 2 s old; a second more is nothing to a buyer who polls.
IDLE_S = 0.5
#: Entries sent in one pass over a sale: a backlog drains in steps that leave room for new grabs.
ENTRIES_MAX = CALL_MAX
#: Longer than a pass usually takes; should the holder be killed, another relays after that.
LOCK_S = 5.0


class Relay:
    """Re-sends old outbox entries of all sales."""

    def __init__(
        self, redis: Redis, stock: Stock, sales: SaleDirectory, publisher: Publisher, *, age_ms: int
    ) -> None:
        self._redis = redis
        self._stock = stock
        self._sales = sales
        self._publisher = publisher
        self._age_ms = age_ms

    async def run_once(self) -> Polled:
        """Send up to ENTRIES_MAX entries of each sale again, and drop what is confirmed."""
        lock = self._redis.lock(redis_keys.relay_lock(), timeout=LOCK_S, blocking=False)
        with redis_errors_as_unavailable():
            if not await lock.acquire():
                return Polled(0, more=False)  # another process does it: no need to do it twice
        try:
            return await self._relay_all()
        finally:
            # An expired lock means that two relays ran, which is only work done twice.
            with redis_errors_as_unavailable(), suppress(LockError):
                await lock.release()

    async def _relay_all(self) -> Polled:
        sale_ids = [sale.sale_id for sale in await self._sales.recent()]
        before_ms = await self._stock.now_ms() - self._age_ms
        total, backlog = 0, False
        for sale_id, size in zip(sale_ids, await outbox.sizes(self._redis, sale_ids), strict=True):
            if size == 0:
                continue
            entries = await outbox.read_older_than(
                self._redis, sale_id, before_ms, limit=ENTRIES_MAX
            )
            await self._send(sale_id, entries)
            total += len(entries)
            backlog = backlog or len(entries) == ENTRIES_MAX
        metrics.RELAYED.inc(total)
        return Polled(total, backlog)

    async def _send(self, sale_id: str, entries: Sequence[OutboxEntry]) -> None:
        for epoch, group in groupby(entries, key=lambda entry: entry.epoch):
            for message in _messages(list(group)):
                outbox_ids = [entry.outbox_id for entry in message]
                grabs = [grab for entry in message for grab in entry.grabs]
                body = messages.encode_place(sale_id, epoch, outbox_ids, grabs)
                await self._publisher.publish(topology.ORDERS_PLACE, body)
                await self._stock.ack_outbox(sale_id, outbox_ids)


def _messages(entries: Sequence[OutboxEntry]) -> list[list[OutboxEntry]]:
    """Pack entries into messages of about MESSAGE_GRABS_MAX grabs."""
    packed: list[list[OutboxEntry]] = []
    size = MESSAGE_GRABS_MAX
    for entry in entries:
        size += len(entry.grabs)
        if size > MESSAGE_GRABS_MAX:
            packed.append([])
            size = len(entry.grabs)
        packed[-1].append(entry)
    return packed


def build(stores: Resources) -> Role:
    """Return the role, on the stores of this process."""
    role = Relay(
        stores.redis,
        stores.stock,
        stores.sales,
        stores.publisher,
        age_ms=stores.settings.relay_age_ms,
    )
    return PollRole("relay", role.run_once, idle_s=IDLE_S)
