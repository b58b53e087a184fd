"""key_expiry: cancels orders whose key in Redis has expired, unless they were paid or ended.

Redis announces each expired key once, to the processes that listen at that moment. The sweep finds
the orders of all other keys.
https://redis.io/docs/latest/develop/use/keyspace-notifications/
"""

from __future__ import annotations

import logging
import time

import asyncpg
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.adapters import redis_keys
from seckill.adapters.failures import REDIS
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.consistency import history
from seckill.consistency.preflight import KEYSPACE_EVENTS, missing_expiry_events, redis_settings
from seckill.errors import Unavailable
from seckill.log_lines import log_orders
from seckill.orders import orders
from seckill.tracing import order_traces

#: Longest wait for an event: so soon the role notices that it should stop.
IDLE_S = 0.5
#: Orders placed together expire together: so long they are collected into one transaction.
COLLECT_S = 0.1
BATCH_MAX = 1_000
#: After so much silence Redis is pinged: a link may break without an error.
PING_S = 10.0

log = logging.getLogger(__name__)


class KeyExpiry:
    """Listens for expired keys of orders, and cancels those orders."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db
        self._pubsub: PubSub | None = None
        #: Orders to cancel; they stay here while PostgreSQL is unavailable.
        self._due: set[str] = set()
        self._heard_at = 0.0
        self._pinged = False

    async def run_once(self) -> Polled:
        """Wait for one batch and cancel it; there may always be more at once."""
        if not self._due:
            try:
                with redis_errors_as_unavailable():
                    await self._collect(self._pubsub or await self._subscribe())
            except Unavailable:
                await self.close()
                raise
        if not self._due:
            return Polled(0, more=True)
        if await history.is_back_in_time(self._redis, self._db):
            self._due.clear()  # they may be paid, which PostgreSQL forgot; the sweep has them later
            return Polled(0, more=True)
        start_ns = time.time_ns()
        ended = await orders.release(
            self._db, sorted(self._due), to_state="cancelled", reason="expired", overdue_only=True
        )
        self._due.clear()
        metrics.EXPIRED.labels("key").inc(len(ended))
        log_orders(log, logging.INFO, "orders_expired", "expired (key)", ended)
        await order_traces.record(self._db, "key_expiry: cancel orders", ended, start_ns)
        return Polled(len(ended), more=True)

    async def close(self) -> None:
        """Close the subscription, if there is one."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.aclose()

    async def _subscribe(self) -> PubSub:
        if line := missing_expiry_events(await redis_settings(self._redis, [KEYSPACE_EVENTS])):
            log.warning("key_expiry: %s", line)
        database = self._redis.connection_pool.connection_kwargs.get("db", 0)
        # Kept before it is used: a subscription that is refused would keep its link for ever.
        pubsub = self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        await pubsub.subscribe(redis_keys.expired_channel(database))
        self._heard_at, self._pinged = time.monotonic(), False
        return pubsub

    async def _collect(self, pubsub: PubSub) -> None:
        """Wait up to IDLE_S for an event, then up to COLLECT_S for those that come with it."""
        until = time.monotonic() + IDLE_S
        while len(self._due) < BATCH_MAX and (wait_s := until - time.monotonic()) > 0:
            message = await pubsub.get_message(timeout=wait_s)
            if message is None:
                continue
            self._heard_at, self._pinged = time.monotonic(), False
            if message["type"] != "message":
                continue
            if order_id := redis_keys.order_of_expiry(message["data"].decode(errors="replace")):
                if not self._due:
                    until = time.monotonic() + COLLECT_S
                self._due.add(order_id)
        await self._check_link(pubsub)

    async def _check_link(self, pubsub: PubSub) -> None:
        """Ping a silent Redis; raise Unavailable if it does not answer."""
        silent_s = time.monotonic() - self._heard_at
        if silent_s > 2 * PING_S:
            raise Unavailable(f"Redis gave no sign of life for {silent_s:.0f} s", store=REDIS)
        if pubsub.connection is not None and pubsub.connection.should_reconnect():
            raise Unavailable("Redis: the subscription led to the wrong node", store=REDIS)
        if silent_s > PING_S and not self._pinged:
            await pubsub.ping()
            self._pinged = True


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    return PollRole("key_expiry", KeyExpiry(stores.redis, stores.db).run_once, idle_s=0)
