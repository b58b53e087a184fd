"""The deliveries: which one is next, what came of it, and when it is given up.

A process takes a delivery by a lease. The lease ends with the attempt, or by itself after the
process was killed; then another process sends the same message again, with the same id.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.backoff import Backoff
from seckill.webhooks.endpoints import WebhookEndpoint
from seckill.webhooks.sender import GONE, EndpointAnswer

#: After 5, 10, 20 s and so on up to an hour: a restart passes unnoticed, and an endpoint that comes
#: back after a night has its events within the hour. Nearly eighty attempts in three days.
WAITS = Backoff(5.0, 3600.0)
#: Retry-After is obeyed up to this: a mistake there must not silence an endpoint for long.
RETRY_AFTER_MAX_S = 3600.0
#: An endpoint that failed for longer gets all that waits at once when it answers again. One message
#: that alone fails, among others that do not, is not tried more often by that.
RECOVERED_AFTER = timedelta(minutes=5)
#: How long what was delivered is kept, and what is dead.
KEPT, DEAD_KEPT = timedelta(days=7), timedelta(days=30)
#: Rows that one statement of the upkeep changes.
UPKEEP_MAX = 1_000

# A table expression that locks runs once, whatever the plan is: a subquery might run again for each
# row, and lock more than it returns.
_CLAIM = """
WITH due AS MATERIALIZED (
  SELECT w.delivery_id
    FROM unnest($1::bigint[], $2::integer[]) AS f (endpoint_id, free)
   CROSS JOIN LATERAL (
           SELECT delivery_id FROM webhook_deliveries
            WHERE endpoint_id = f.endpoint_id AND state = 'pending' AND next_attempt_at <= now()
              AND (leased_until IS NULL OR leased_until <= now())
            ORDER BY next_attempt_at, delivery_id LIMIT f.free FOR UPDATE SKIP LOCKED
         ) AS w
)
UPDATE webhook_deliveries d
   SET attempts = d.attempts + 1, leased_until = now() + $3
  FROM due, webhook_messages m
 WHERE d.delivery_id = due.delivery_id AND m.message_id = d.message_id
RETURNING d.delivery_id, d.endpoint_id, d.attempts, d.message_id, m.body
"""
_TAKEN = """
UPDATE webhook_deliveries
   SET state = 'delivered', leased_until = NULL, last_at = now(), last_status = $2, last_words = $3
 WHERE delivery_id = $1 AND state <> 'delivered'
"""
# Of an attempt whose lease had ended, and that another process has repeated since, nothing is kept.
_FAILED = """
UPDATE webhook_deliveries
   SET state = CASE WHEN now() + $5 >= give_up_at THEN 'dead' ELSE 'pending' END,
       next_attempt_at = now() + $5, leased_until = NULL,
       last_at = now(), last_status = $3, last_words = $4
 WHERE delivery_id = $1 AND attempts = $2 AND state = 'pending'
RETURNING state
"""
# An endpoint that fails is asked more and more seldom, up to once a minute, by any delivery.
_FAILING = """
UPDATE webhook_endpoints
   SET failing_since = coalesce(failing_since, now()),
       resume_at = greatest(
         resume_at, now() + $2,
         CASE WHEN failing_since < now()
              THEN now() + least((now() - failing_since) / 10, interval '60 s') END
       )
 WHERE endpoint_id = $1
"""


class ClaimedDelivery(NamedTuple):
    """A delivery that this process may attempt now."""

    delivery_id: int
    endpoint_id: int
    #: This one included.
    attempts: int
    message_id: UUID
    body: bytes


def public_id(message_id: UUID) -> str:
    """Return the id of a message as requests carry it."""
    return f"msg_{message_id.hex}"


async def claim(db: asyncpg.Pool, free: Mapping[int, int], lease_s: float) -> list[ClaimedDelivery]:
    """Take what is due for endpoints, at most so many of each; no other process gets them."""
    with database_errors_as_unavailable():
        rows = await db.fetch(_CLAIM, list(free), list(free.values()), timedelta(seconds=lease_s))
    return [ClaimedDelivery(*row) for row in rows]


async def record(
    db: asyncpg.Pool, endpoint: WebhookEndpoint, claimed: ClaimedDelivery, answer: EndpointAnswer
) -> str:
    """Write down what came of an attempt; return `delivered`, `failed` or `dead`.

    Row by row, each in its own statement: a crash in between leaves the endpoint's state behind for
    one attempt, and no lock is held while another is awaited.
    """
    with database_errors_as_unavailable():
        if answer.is_taken:
            await db.execute(_TAKEN, claimed.delivery_id, answer.status, answer.words)
            if endpoint.failing_since:
                await _recovered(db, endpoint.endpoint_id)
            return "delivered"
        after_s = min(answer.retry_after_s or 0.0, RETRY_AFTER_MAX_S)
        wait = timedelta(seconds=max(WAITS.wait_s(claimed.attempts), after_s))
        state = await db.fetchval(
            _FAILED, claimed.delivery_id, claimed.attempts, answer.status, answer.words, wait
        )
        rest = timedelta(seconds=after_s) if after_s else None
        await db.execute(_FAILING, endpoint.endpoint_id, rest)
    if answer.status == GONE:
        await _disable(db, endpoint)
    return "dead" if state == "dead" else "failed"


async def upkeep(db: asyncpg.Pool) -> int:
    """Give up what is due to that, and delete what was kept for long enough; return how many died.

    A delivery that was never tried, of an endpoint that works, is tried first, however late: it was
    the consumers that were away.
    """
    with database_errors_as_unavailable():
        died = await db.fetch(
            "UPDATE webhook_deliveries SET state = 'dead',"
            " last_words = coalesce(last_words, 'never tried: the endpoint failed or was disabled')"
            " WHERE delivery_id IN (SELECT delivery_id"
            "  FROM webhook_deliveries d JOIN webhook_endpoints e USING (endpoint_id)"
            "  WHERE d.state = 'pending' AND d.give_up_at <= now() AND d.next_attempt_at <= now()"
            "  AND (d.leased_until IS NULL OR d.leased_until <= now())"
            "  AND (d.attempts > 0 OR NOT e.enabled OR e.failing_since < now() - interval '1 h')"
            "  LIMIT $1 FOR UPDATE OF d SKIP LOCKED)"
            " RETURNING 1",
            UPKEEP_MAX,
        )
        await db.execute(
            "DELETE FROM webhook_messages WHERE message_id IN (SELECT message_id"
            "  FROM webhook_messages m WHERE queued_at < now() - $1::interval AND NOT EXISTS ("
            "   SELECT FROM webhook_deliveries d WHERE d.message_id = m.message_id AND ("
            "    d.state = 'pending'"
            "    OR d.state = 'dead' AND m.queued_at >= now() - $2::interval)) LIMIT $3)",
            KEPT,
            DEAD_KEPT,
            UPKEEP_MAX,
        )
    return len(died)


async def _recovered(db: asyncpg.Pool, endpoint_id: int) -> None:
    since = await db.fetchval(
        "UPDATE webhook_endpoints e SET failing_since = NULL, resume_at = NULL"
        "  FROM webhook_endpoints b WHERE e.endpoint_id = $1 AND b.endpoint_id = e.endpoint_id"
        "  AND b.failing_since IS NOT NULL"
        " RETURNING b.failing_since < now() - $2::interval",
        endpoint_id,
        RECOVERED_AFTER,
    )
    if since:
        await db.execute(
            "UPDATE webhook_deliveries SET next_attempt_at = now()"
            " WHERE endpoint_id = $1 AND state = 'pending' AND next_attempt_at > now()",
            endpoint_id,
        )


async def _disable(db: asyncpg.Pool, endpoint: WebhookEndpoint) -> None:
    async with transaction(db) as connection:
        if await connection.fetchval(
            "UPDATE webhook_endpoints SET enabled = false,"
            " disabled_because = 'it answered 410 Gone' WHERE endpoint_id = $1 AND enabled"
            " RETURNING true",
            endpoint.endpoint_id,
        ):
            await audit.record(
                connection,
                "webhook.disable",
                actor="send_webhooks",
                reason="it answered 410 Gone",
                details={"endpoint_id": endpoint.endpoint_id, "url": endpoint.url},
            )
