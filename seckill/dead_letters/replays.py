"""What became of replayed letters: their messages were handled, or died again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from seckill.adapters import topology
from seckill.adapters.postgres import database_errors_as_unavailable


class ReplayOutcome(StrEnum):
    """What became of a replayed message, as far as PostgreSQL shows it."""

    #: Each order that it names is placed, or rejected, or no longer waits to expire.
    HANDLED = "replayed"
    #: Its letter is open again.
    DIED_AGAIN = "died again"
    #: It waits, or is being tried again: after a failure that may pass, for 156 s.
    UNDER_WAY = "replayed, but not handled yet"
    #: It has not died, and nothing in PostgreSQL would show that it was handled.
    NOT_DEAD = "replayed, and not dead again so far"


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome of one letter, with the reason of its last death."""

    outcome: ReplayOutcome
    reason: str


async def outcomes(db: asyncpg.Pool, letter_ids: Collection[int]) -> dict[int, Replayed]:
    """Return the outcome of each letter, all of which were replayed before."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT letter_id, l.state, l.reason, l.queue, count(named.order_id) AS named,"
            " count(named.order_id) FILTER (WHERE o.state IS NOT NULL) AS placed,"
            " count(named.order_id) FILTER (WHERE o.state = 'pending') AS pending"
            "  FROM dead_letters l LEFT JOIN dead_letter_orders named USING (letter_id)"
            "  LEFT JOIN orders o ON o.order_id = named.order_id"
            " WHERE letter_id = ANY ($1) GROUP BY letter_id",
            list(letter_ids),
        )
    return {row["letter_id"]: Replayed(_outcome(row), row["reason"]) for row in rows}


def _outcome(row: asyncpg.Record) -> ReplayOutcome:
    if row["state"] == "open":
        return ReplayOutcome.DIED_AGAIN
    if not row["named"] or row["queue"] not in (topology.ORDERS_PLACE, topology.ORDERS_EXPIRE):
        return ReplayOutcome.NOT_DEAD
    left = row["pending"]
    if row["queue"] == topology.ORDERS_PLACE:
        left = row["named"] - row["placed"]
    return ReplayOutcome.UNDER_WAY if left else ReplayOutcome.HANDLED
