"""Find sales of which Redis no longer holds what PostgreSQL knows; such a sale must be rebuilt.

Redis may come back empty, or as it was some time ago. Nothing may be sold from such a past: its
stock counts units that have been sold since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import asyncpg
from redis.asyncio import Redis

import lua
from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable, unless_broken
from seckill.inventory import outbox


class FenceReason(StrEnum):
    """Why a sale sells nothing until it is rebuilt."""

    #: Redis has lost it, or part of it, or something else stands there.
    LOST = "lost"
    #: Redis went back in time.
    BEHIND = "behind"
    #: It was found to be behind, or a rebuild of it was cut off or is under way.
    FENCED = "fenced"
    #: Redis has a later epoch: PostgreSQL was restored from before a rebuild.
    AHEAD = "ahead"
    #: PostgreSQL was restored, and has forgotten something of it: see history.py.
    RESTORED = "restored"


class ChangeStamp(NamedTuple):
    """Values of which one changes with everything that happens to a sale, in either store."""

    #: The epoch in Redis.
    epoch: int
    version: int
    #: State, stock, corrections, number of holders, last outbox id.
    redis: tuple[bytes | int | None, ...]

    def text(self) -> str:
        """Return it as `sales.quiet_stamp` has it."""
        parts = (p.decode() if isinstance(p, bytes) else p for p in self.redis)
        return " ".join("-" if p is None else str(p) for p in (self.epoch, self.version, *parts))


@dataclass(frozen=True, slots=True)
class SaleState:
    """The state of a sale in Redis: why it must be rebuilt, or the stamp of a whole sale."""

    fence_reason: FenceReason | None
    stamp: ChangeStamp | None = None
    #: What PostgreSQL had, if it may become quiet: over for a while, and without unpaid orders.
    over_as: str | None = None
    #: The stamp that it was marked as quiet with.
    quiet_stamp: str | None = None


_REASONS = {
    b"MISSING": FenceReason.LOST,
    b"BEHIND": FenceReason.BEHIND,
    b"FENCED": FenceReason.FENCED,
}


#: So long after its end a sale may become quiet: no script call, publish or relay takes longer.
#: What is still under way after that is a holder without a row, and keeps the sale live.
OVER_S = 30
#: Whether a sale takes no grabs any more, and has not done so for OVER_S. Versions before
#: `closed_at` leave it null.
IS_OVER = (
    "CASE state WHEN 'created' THEN created_at"
    " WHEN 'closed' THEN coalesce(least(closed_at, closes_at), created_at) ELSE closes_at END"
    f" < now() - interval '{OVER_S} s'"
)
_SURVEYED = f"""
SELECT sale_id, epoch, outbox_mark, opened_at IS NOT NULL, version,
       restored_sales.sale_id IS NOT NULL AS restored,
       CASE WHEN {IS_OVER} AND frozen = 0 THEN state END AS over_as, quiet_stamp
  FROM sales JOIN inventory USING (sale_id) LEFT JOIN restored_sales USING (sale_id)
 WHERE archived_at IS NULL
"""  # noqa: S608 - ours


async def survey(
    redis: Redis, db: asyncpg.Pool, sale_ids: Collection[str] | None = None, *, fence: bool = False
) -> dict[str, SaleState]:
    """Check all sales, or those of `sale_ids`, in one query and one round trip to Redis.

    An archived sale is left out: Redis has nothing of it. With `fence`, a sale that went back in
    time is fenced in the same step. PostgreSQL is read first: it learns of everything from Redis,
    so Redis must have all that PostgreSQL knew then.
    """
    with database_errors_as_unavailable():
        if sale_ids is None:
            rows = await db.fetch(_SURVEYED)
        else:
            rows = await db.fetch(f"{_SURVEYED} AND sale_id = ANY($1)", list(sale_ids))
    check = lua.register(redis, "check_sale")
    async with open_pipeline(redis) as pipe:
        for sale_id, epoch, mark, opened, *_ in rows:
            keys = (redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox)
            await check(
                keys=[key(sale_id) for key in keys],
                args=[epoch, outbox.id_of(mark), int(opened), int(fence)],
                client=pipe,
            )
        replies = await pipe.execute(raise_on_error=False)
        sale_ids = [row["sale_id"] for row in rows]
        replies = [unless_broken(*each) for each in zip(sale_ids, replies, strict=True)]
    states = {row["sale_id"]: _state(reply, row) for row, reply in zip(rows, replies, strict=True)}
    later = {
        row["sale_id"]: stamp.epoch
        for row in rows
        if (stamp := states[row["sale_id"]].stamp) and stamp.epoch > row["epoch"]
    }
    for sale_id in await _still_ahead(db, later) if later else ():
        states[sale_id] = SaleState(FenceReason.AHEAD)
    return states


async def needing_rebuild(
    redis: Redis, db: asyncpg.Pool, sale_ids: Collection[str] | None = None
) -> dict[str, FenceReason]:
    """Return the sales that need a rebuild, and why; change nothing."""
    states = await survey(redis, db, sale_ids)
    return {
        sale_id: state.fence_reason
        for sale_id, state in states.items()
        if state.fence_reason is not None
    }


async def epoch_in_redis(redis: Redis, sale_id: str) -> int:
    """Return the epoch of a sale in Redis; 0 if the sale is not there."""
    with redis_errors_as_unavailable():
        return int(await redis.hget(redis_keys.sale(sale_id), "epoch") or 0)


def advice(sale_id: str, reason: FenceReason) -> str:
    """Return one line for an operator."""
    if reason is FenceReason.RESTORED:
        return (
            f"PostgreSQL was restored from a backup without the last of sale {sale_id}; it sells "
            f"nothing until it is recovered: seckill sale recover {sale_id}"
        )
    what = {
        FenceReason.LOST: f"Redis has lost sale {sale_id}",
        FenceReason.BEHIND: f"Redis went back in time with sale {sale_id}",
        FenceReason.FENCED: f"sale {sale_id} is fenced",
        FenceReason.AHEAD: f"PostgreSQL was restored from before a rebuild of sale {sale_id}",
    }[reason]
    return f"{what}; it sells nothing until it is rebuilt: seckill sale rebuild {sale_id}"


async def _still_ahead(db: asyncpg.Pool, epochs: Mapping[str, int]) -> list[str]:
    """Return the sales whose epoch in Redis is one that PostgreSQL does not know.

    PostgreSQL is read again, after Redis: a rebuild may have ended between the two reads.
    """
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT sale_id FROM unnest($1::text[], $2::bigint[]) AS redis (sale_id, epoch)"
            " JOIN inventory i USING (sale_id) WHERE redis.epoch > i.epoch",
            list(epochs),
            list(epochs.values()),
        )
    return [row[0] for row in rows]


def _state(reply: list[Any] | None, row: asyncpg.Record) -> SaleState:
    if row["restored"]:  # whatever Redis has lost as well: the recovery rebuilds it, too
        return SaleState(FenceReason.RESTORED)
    if reply is None:
        return SaleState(FenceReason.LOST)
    if reply[0] != b"WHOLE":
        return SaleState(_REASONS[reply[0]])
    _, epoch, *details = reply
    stamp = ChangeStamp(epoch, row["version"], tuple(details))
    return SaleState(None, stamp, row["over_as"], row["quiet_stamp"])
