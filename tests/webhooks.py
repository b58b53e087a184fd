"""Endpoints and deliveries in PostgreSQL, as the tests of webhooks make and read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from seckill.events import VERSION, EventMessage
from seckill.webhooks import endpoints, queue, replays
from seckill.webhooks.endpoints import WebhookEndpoint
from seckill.webhooks.replays import ListedDelivery
from seckill.webhooks.sender import WebhookSender

Eventually = Callable[..., Awaitable[Any]]


@dataclass
class WebhookBench:
    """The tables of webhooks, empty at first."""

    db: asyncpg.Pool

    async def clear(self) -> None:
        await self.db.execute(
            "TRUNCATE webhook_endpoints, webhook_messages, webhook_deliveries, events"
        )

    async def add(self, url: str, *topics: str) -> WebhookEndpoint:
        return await endpoints.add(self.db, url, topics, actor="test")

    async def find(self, endpoint: WebhookEndpoint) -> WebhookEndpoint:
        return await endpoints.find(self.db, endpoint.endpoint_id)

    async def queue(self, count: int = 1, topic: str = "order.paid") -> None:
        """Queue so many events for the endpoints that want them."""
        now = datetime.now(UTC)
        async with self.db.acquire() as connection, connection.transaction():
            events = [EventMessage(VERSION, n + 1, topic, now) for n in range(count)]
            await queue.add(connection, events)

    async def all(self, state: str | None = None) -> list[ListedDelivery]:
        """Return deliveries, oldest first."""
        found = await replays.newest(self.db, endpoint_id=None, state=state, limit=1000)
        return found[::-1]

    async def count(self, state: str) -> int:
        return len(await self.all(state))

    async def let_time_pass(self, hours: float) -> None:
        """Let all that is written down have happened so much earlier."""
        await self.db.execute(
            "UPDATE webhook_deliveries SET next_attempt_at = next_attempt_at - h,"
            " give_up_at = give_up_at - h, leased_until = leased_until - h,"
            " queued_at = queued_at - h FROM (SELECT make_interval(secs => $1) AS h) AS t",
            hours * 3600,
        )
        await self.db.execute(
            "UPDATE webhook_endpoints SET failing_since = failing_since - h,"
            " resume_at = resume_at - h, old_secret_until = old_secret_until - h"
            " FROM (SELECT make_interval(secs => $1) AS h) AS t",
            hours * 3600,
        )
        await self.db.execute(
            "UPDATE webhook_messages SET queued_at = queued_at - make_interval(secs => $1)",
            hours * 3600,
        )

    def sender(self, timeout_s: float = 30.0, *, private_allowed: bool = True) -> Any:
        return WebhookSender.open(timeout_s=timeout_s, private_allowed=private_allowed)
