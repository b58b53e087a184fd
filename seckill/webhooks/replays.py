"""What became of the deliveries, and how dead ones are sent again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import Missing
from seckill.webhooks.deliveries import public_id

_LIST = """
SELECT d.delivery_id, d.endpoint_id, e.url, d.message_id, m.topic, d.state, d.attempts,
       d.queued_at, d.next_attempt_at, d.last_at, d.last_status, d.last_words
  FROM webhook_deliveries d JOIN webhook_messages m USING (message_id)
  JOIN webhook_endpoints e USING (endpoint_id)
 WHERE {of_endpoint} AND d.delivery_id < coalesce($2, 9223372036854775807) AND {in_state}
 ORDER BY d.delivery_id DESC LIMIT $3
"""
#: Written into the query, so that each has a plan of its own with the index for it.
_IN_STATE: dict[str | None, str] = {
    None: "true",
    **{state: f"d.state = '{state}'" for state in ("pending", "delivered", "dead")},
}
_AGAIN = """
UPDATE webhook_deliveries
   SET state = 'pending', attempts = 0, leased_until = NULL, queued_at = now(),
       next_attempt_at = now(), give_up_at = now() + interval '3 days'
"""

_DEAD_AGAIN = f"""{_AGAIN}
 WHERE endpoint_id = $1 AND state = 'dead'
   AND ($2::timestamptz IS NULL
        OR message_id IN (SELECT message_id FROM webhook_messages WHERE queued_at >= $2))
RETURNING 1
"""  # noqa: S608 - ours


@dataclass(frozen=True, slots=True)
class ListedDelivery:
    """A delivery as people see it."""

    delivery_id: int
    endpoint_id: int
    url: str
    message_id: str
    topic: str
    state: str
    attempts: int
    queued_at: datetime
    next_attempt_at: datetime
    last_at: datetime | None
    last_status: int | None
    last_words: str | None


async def newest(
    db: asyncpg.Pool,
    *,
    endpoint_id: int | None,
    state: str | None,
    limit: int,
    before: int | None = None,
) -> list[ListedDelivery]:
    """Return deliveries, newest first; those below the number `before` if it is given."""
    of_endpoint = "$1::bigint IS NULL" if endpoint_id is None else "d.endpoint_id = $1::bigint"
    query = _LIST.format(of_endpoint=of_endpoint, in_state=_IN_STATE[state])
    with database_errors_as_unavailable():
        rows = await db.fetch(query, endpoint_id, before, limit)
    return [ListedDelivery(**{**row, "message_id": public_id(row["message_id"])}) for row in rows]


async def replay(
    db: asyncpg.Pool | asyncpg.Connection,
    delivery_ids: Sequence[int],
    *,
    actor: str,
    endpoint_id: int | None = None,
) -> int:
    """Send deliveries again, whatever became of them.

    Raise Missing if one does not exist, or is not of the endpoint that is named.
    """
    async with transaction(db) as connection:
        rows = await connection.fetch(
            f"{_AGAIN} WHERE delivery_id = ANY ($1)"
            " AND ($2::bigint IS NULL OR endpoint_id = $2) RETURNING delivery_id",
            delivery_ids,
            endpoint_id,
        )
        if missing := sorted(set(delivery_ids) - {row[0] for row in rows}):
            raise Missing(
                f"there is no delivery {', '.join(map(str, missing))}; "
                "`seckill webhook deliveries` shows them"
            )
        details = {"deliveries": list(delivery_ids)}
        await audit.record(connection, "webhook.replay", actor=actor, reason="", details=details)
        return len(rows)


async def replay_dead(
    db: asyncpg.Pool | asyncpg.Connection, endpoint_id: int, since: datetime | None, *, actor: str
) -> int:
    """Send again what is dead of an endpoint, of events since a time; return how many."""
    async with transaction(db) as connection:
        rows = await connection.fetch(
            _DEAD_AGAIN,
            endpoint_id,
            since,
        )
        details = {"endpoint_id": endpoint_id, "since": since, "deliveries": len(rows)}
        await audit.record(connection, "webhook.replay", actor=actor, reason="", details=details)
        return len(rows)
