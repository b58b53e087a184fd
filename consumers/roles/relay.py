"""relay: publishes what has been in an outbox for too long: the broker never confirmed it.

A gateway that died between the script and the broker leaves its batch in the outbox, and so does
every gateway while the broker is unavailable. Publishing twice is harmless: an order_id becomes a
row once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby

from redis.asyncio import Redis
from redis.exceptions import LockError

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.retries import FailedMessage, dead_letter
from consumers.runtime.role import Role
from seckill import messages, metrics
from seckill.adapters import redis_keys, topology
from seckill.adapters.publisher import Publisher
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.errors import BrokenSale
from seckill.inventory import outbox
from seckill.inventory.outbox import OutboxEntry, UnreadableEntry
from seckill.inventory.reservations import CALL_MAX, Stock
from seckill.log_lines import log_orders
from seckill.messages import MESSAGE_GRABS_MAX
from seckill.sales.directory import SaleDirectory

log = logging.getLogger(__name__)

#: An entry is relayed at 2 s; a buyer who polls does not notice a second more. A look asks Redis
#: about each live sale: two hundred take this process 3 ms.
IDLE_S = 1.0
#: Entries published in one pass over a sale: a backlog shrinks in steps, between new grabs.
ENTRIES_MAX = CALL_MAX
#: Longer than a pass usually takes; if the process with the lock is killed, another relays then.
LOCK_S = 5.0


class Relay:
    """Publishes old outbox entries of all sales again."""

    def __init__(
        self, redis: Redis, stock: Stock, sales: SaleDirectory, publisher: Publisher, *, age_ms: int
    ) -> None:
        self._redis = redis
        self._stock = stock
        self._sales = sales
        self._publisher = publisher
        self._age_ms = age_ms

    async def run_once(self) -> Polled:
        """Publish up to ENTRIES_MAX entries of each sale, and drop those that are confirmed."""
        filled = await self._filled()
        if not filled:
            return Polled(0, more=False)
        lock = self._redis.lock(redis_keys.relay_lock(), timeout=LOCK_S, blocking=False)
        with redis_errors_as_unavailable():
            if not await lock.acquire():
                return Polled(0, more=False)  # another process relays
        try:
            return await self._relay(filled)
        finally:
            # If the lock has expired, two processes relayed: work done twice, and no harm.
            with redis_errors_as_unavailable(), suppress(LockError):
                await lock.release()

    async def _filled(self) -> list[str]:
        """Return the sales with anything in their outbox."""
        sale_ids = [sale.sale_id for sale in await self._sales.recent()]
        sizes = await outbox.sizes(self._redis, sale_ids)
        return [sale_id for sale_id, size in zip(sale_ids, sizes, strict=True) if size]

    async def _relay(self, sale_ids: Sequence[str]) -> Polled:
        before_ms = await self._stock.now_ms() - self._age_ms
        total, more = 0, False
        for sale_id in sale_ids:
            entries, unreadable = await outbox.read_older_than(
                self._redis, sale_id, before_ms, limit=ENTRIES_MAX
            )
            try:
                await self._publish(sale_id, entries)
                await self._dead_letter(sale_id, unreadable)
            except BrokenSale:  # logged; the other sales go on
                continue
            done = len(entries) + len(unreadable)
            total += done
            more = more or done == ENTRIES_MAX
        metrics.RELAYED.inc(total)
        return Polled(total, more)

    async def _publish(self, sale_id: str, entries: Sequence[OutboxEntry]) -> None:
        for epoch, group in groupby(entries, key=lambda entry: entry.epoch):
            for packed in _pack(group):
                outbox_ids = [entry.outbox_id for entry in packed]
                grabs = [grab for entry in packed for grab in entry.grabs]
                traces = {k: v for entry in packed for k, v in entry.traces.items()}
                body = messages.encode_place(sale_id, epoch, outbox_ids, grabs, traces)
                await self._publisher.publish(topology.ORDERS_PLACE, body)
                await self._stock.ack_outbox(sale_id, outbox_ids)
                ids = [grab.order_id for grab in grabs]
                log_orders(log, logging.INFO, "grabs_relayed", "relayed", ids, sale_id=sale_id)

    async def _dead_letter(self, sale_id: str, entries: Sequence[UnreadableEntry]) -> None:
        """Take entries out of the way that would stop the relay of all sales again and again.

        Their buyers' grabs, if there are any, are holders in Redis; `reconcile` publishes those.
        """
        if entries:
            dead = [FailedMessage(entry.body, entry.reason) for entry in entries]
            await dead_letter(self._publisher, topology.ORDERS_PLACE, dead)
            await self._stock.ack_outbox(sale_id, [entry.outbox_id for entry in entries])


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    role = Relay(
        stores.redis,
        stores.stock,
        stores.sales,
        stores.publisher,
        age_ms=stores.settings.relay_age_ms,
    )
    return PollRole("relay", role.run_once, idle_s=IDLE_S)


def _pack(entries: Iterable[OutboxEntry]) -> list[list[OutboxEntry]]:
    """Pack entries into messages of MESSAGE_GRABS_MAX grabs; a larger entry is one message."""
    packed: list[list[OutboxEntry]] = []
    size = MESSAGE_GRABS_MAX
    for entry in entries:
        size += len(entry.grabs)
        if size > MESSAGE_GRABS_MAX:
            packed.append([])
            size = len(entry.grabs)
        packed[-1].append(entry)
    return packed
