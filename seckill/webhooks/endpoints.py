"""The endpoints: where the shop wants its events, which ones, and how they are signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import Missing, UserMistake, WrongState
from seckill.events import TOPICS
from seckill.webhooks.signing import new_secret

#: Each may have some requests under way at a time in each process.
ENDPOINTS_MAX = 100
#: How long an old secret signs, too, unless the call says otherwise. A deployment of the shop takes
#: less, and a mistake is noticed within a working day.
OLD_SECRET_HOURS = 24.0
_FAMILIES = sorted({f"{topic.partition('.')[0]}.*" for topic in TOPICS})

_SELECT = """
SELECT endpoint_id, url, topics, secret,
       CASE WHEN old_secret_until > now() THEN old_secret END, enabled, disabled_because,
       failing_since, resume_at, resume_at > now(), created_at
  FROM webhook_endpoints
"""


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """A row of the table."""

    endpoint_id: int
    url: str
    #: Empty: all events.
    topics: Sequence[str]
    secret: str
    #: During a rotation, the secret before it.
    old_secret: str | None
    enabled: bool
    disabled_because: str | None
    failing_since: datetime | None
    resume_at: datetime | None
    #: It asked for no request before `resume_at`, and that is still to come.
    rests: bool | None
    created_at: datetime

    @property
    def secrets(self) -> list[str]:
        """Return the secrets that sign, the newest first."""
        return [self.secret, *([self.old_secret] if self.old_secret else [])]


@dataclass(frozen=True, slots=True)
class WaitingDeliveries:
    """How many deliveries of an endpoint have not ended well."""

    pending: int = 0
    dead: int = 0
    oldest_pending: datetime | None = None


def check_topics(topics: Sequence[str]) -> list[str]:
    """Return topics, each once, or raise UserMistake naming those that there are not."""
    if unknown := [topic for topic in topics if topic not in TOPICS and topic not in _FAMILIES]:
        raise UserMistake(
            f"no event {', '.join(unknown)}; there are: {', '.join([*TOPICS, *_FAMILIES])}"
        )
    return list(dict.fromkeys(topics))


async def all_(db: asyncpg.Pool | asyncpg.Connection) -> list[WebhookEndpoint]:
    """Return all endpoints."""
    with database_errors_as_unavailable():
        rows = await db.fetch(f"{_SELECT} ORDER BY endpoint_id")
    return [WebhookEndpoint(*row) for row in rows]


async def find(db: asyncpg.Pool | asyncpg.Connection, endpoint_id: int) -> WebhookEndpoint:
    """Return an endpoint; raise Missing if there is none of this id."""
    with database_errors_as_unavailable():
        row = await db.fetchrow(f"{_SELECT} WHERE endpoint_id = $1", endpoint_id)
    if row is None:
        raise Missing(f"there is no webhook {endpoint_id}; `seckill webhook list` shows them")
    return WebhookEndpoint(*row)


async def waiting(
    db: asyncpg.Pool | asyncpg.Connection, endpoint_id: int | None = None
) -> dict[int, WaitingDeliveries]:
    """Return endpoint id -> what waits for it or is dead; no entry for an endpoint without any.

    Of all endpoints, or of one.
    """
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT endpoint_id, count(*) FILTER (WHERE state = 'pending'),"
            " count(*) FILTER (WHERE state = 'dead'),"
            " min(queued_at) FILTER (WHERE state = 'pending')"
            " FROM webhook_deliveries WHERE state IN ('pending', 'dead')"
            " AND ($1::bigint IS NULL OR endpoint_id = $1) GROUP BY endpoint_id",
            endpoint_id,
        )
    return {row[0]: WaitingDeliveries(*row[1:]) for row in rows}


async def add(
    db: asyncpg.Pool | asyncpg.Connection,
    url: str,
    topics: Sequence[str],
    *,
    actor: str,
    reason: str = "",
) -> WebhookEndpoint:
    """Add an endpoint with a new secret; `url` has passed `check_url`."""
    topics = check_topics(topics)
    async with transaction(db) as connection:
        # Two at once could make one too many, and that does no harm.
        if await connection.fetchval("SELECT count(*) FROM webhook_endpoints") >= ENDPOINTS_MAX:
            raise WrongState(f"there are {ENDPOINTS_MAX} webhooks; remove one first")
        endpoint_id = await connection.fetchval(
            "INSERT INTO webhook_endpoints (url, topics, secret) VALUES ($1, $2, $3)"
            " RETURNING endpoint_id",
            url,
            topics,
            new_secret(),
        )
        details = {"endpoint_id": endpoint_id, "url": url, "topics": topics}
        await audit.record(connection, "webhook.add", actor=actor, reason=reason, details=details)
        return await find(connection, endpoint_id)


async def remove(
    db: asyncpg.Pool, endpoint_id: int, *, drop: bool, actor: str, reason: str = ""
) -> int:
    """Remove an endpoint; return how many deliveries that were not made went with it.

    Raise WrongState if there are any, and they are not to be dropped.
    """
    async with transaction(db) as connection:
        endpoint = await _lock(connection, endpoint_id)
        left = await connection.fetchval(
            "SELECT count(*) FROM webhook_deliveries"
            " WHERE endpoint_id = $1 AND state IN ('pending', 'dead')",
            endpoint_id,
        )
        if left and not drop:
            raise WrongState(
                f"webhook {endpoint_id} has {left} deliveries that were not made; "
                "remove it with them: `--drop`, or `?drop=true`"
            )
        await connection.execute(
            "DELETE FROM webhook_endpoints WHERE endpoint_id = $1", endpoint_id
        )
        details = {"endpoint_id": endpoint_id, "url": endpoint.url, "dropped": left}
        await audit.record(
            connection, "webhook.remove", actor=actor, reason=reason, details=details
        )
        return int(left)


async def change(
    db: asyncpg.Pool,
    endpoint_id: int,
    *,
    actor: str,
    url: str | None = None,
    topics: Sequence[str] | None = None,
) -> WebhookEndpoint:
    """Change the address (which has passed `check_url`) or the events of an endpoint."""
    topics = None if topics is None else check_topics(topics)
    async with transaction(db) as connection:
        await _lock(connection, endpoint_id)
        await connection.execute(
            "UPDATE webhook_endpoints SET url = coalesce($2, url), topics = coalesce($3, topics),"
            " failing_since = NULL, resume_at = NULL WHERE endpoint_id = $1",
            endpoint_id,
            url,
            topics,
        )
        details = {"endpoint_id": endpoint_id, "url": url, "topics": topics}
        await audit.record(connection, "webhook.change", actor=actor, reason="", details=details)
        return await find(connection, endpoint_id)


async def rotate(
    db: asyncpg.Pool | asyncpg.Connection, endpoint_id: int, *, keep_old: timedelta, actor: str
) -> WebhookEndpoint:
    """Give an endpoint a new secret; requests carry signatures by both for a while."""
    async with transaction(db) as connection:
        await _lock(connection, endpoint_id)
        await connection.execute(
            "UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = now() + $2,"
            " secret = $3 WHERE endpoint_id = $1",
            endpoint_id,
            keep_old,
            new_secret(),
        )
        details = {"endpoint_id": endpoint_id, "old_for_s": keep_old.total_seconds()}
        await audit.record(connection, "webhook.rotate", actor=actor, reason="", details=details)
        return await find(connection, endpoint_id)


async def switch(
    db: asyncpg.Pool, endpoint_id: int, *, on: bool, actor: str, reason: str
) -> WebhookEndpoint:
    """Enable an endpoint, or disable it: then its deliveries wait."""
    async with transaction(db) as connection:
        endpoint = await _lock(connection, endpoint_id)
        if endpoint.enabled != on:
            await connection.execute(
                "UPDATE webhook_endpoints SET enabled = $2, disabled_because = $3,"
                " failing_since = NULL, resume_at = NULL WHERE endpoint_id = $1",
                endpoint_id,
                on,
                None if on else reason,
            )
            await audit.record(
                connection,
                "webhook.enable" if on else "webhook.disable",
                actor=actor,
                reason=reason,
                details={"endpoint_id": endpoint_id, "url": endpoint.url},
            )
        return await find(connection, endpoint_id)


async def _lock(connection: asyncpg.Connection, endpoint_id: int) -> WebhookEndpoint:
    await connection.execute(
        "SELECT FROM webhook_endpoints WHERE endpoint_id = $1 FOR UPDATE", endpoint_id
    )
    return await find(connection, endpoint_id)
