"""Archived sales: closed, quiet and balanced sales that only PostgreSQL still has.

First the row says that the sale is archived, under its lock; then its keys are deleted. After that
commit nothing writes these keys any more, so a kill in between leaves keys that are no use to
anybody, and `clear` deletes them whenever it is called again.
"""

from __future__ import annotations

from collections.abc import Collection

import asyncpg
from redis.asyncio import Redis

from config.limits import OPS
from seckill import audit
from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable
from seckill.consistency import fencing
from seckill.consistency.fencing import OVER_S, ChangeStamp
from seckill.consistency.verify import Ledger, verify
from seckill.errors import Conflict, WrongState
from seckill.sales import sales
from seckill.sales.sales import Sale

#: Closed by an operator, or by its own time. Redis has a clock of its own, so in the second case
#: OVER_S must have passed: a grab that Redis lets in must find its keys.
_ARCHIVE = f"""
UPDATE sales SET archived_at = now(), state = 'closed', quiet_stamp = $2,
       closed_at = coalesce(closed_at, closes_at)
 WHERE sale_id = $1 AND (state = 'closed' OR closes_at < now() - interval '{OVER_S} s')
RETURNING true
"""  # noqa: S608 - ours


async def archive(redis: Redis, db: asyncpg.Pool, sale_id: str, *, actor: str, reason: str) -> Sale:
    """Archive a sale; again it only deletes what may be left in Redis. Return the sale.

    Raise WrongState if the sale is not closed, quiet and balanced.
    """
    sale = await sales.find(db, sale_id)
    if not sale.archived:
        await _mark(redis, db, sale, actor, reason)
    await clear(redis, db, sale_id)
    return await sales.find(db, sale_id)


async def clear(redis: Redis, db: asyncpg.Pool, sale_id: str) -> None:
    """Delete the keys of an archived sale."""
    keys = [key(sale_id) for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders)]
    keys += [redis_keys.outbox(sale_id)]
    keys += [key(sale_id, op) for op in OPS for key in (redis_keys.bucket, redis_keys.line)]
    with redis_errors_as_unavailable():
        await redis.unlink(*keys)
    with database_errors_as_unavailable():
        await db.execute(
            "UPDATE sales SET quiet_stamp = NULL WHERE sale_id = $1 AND archived_at IS NOT NULL",
            sale_id,
        )


async def unfinished(db: asyncpg.Pool) -> list[str]:
    """Return archived sales whose keys may still be in Redis."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT sale_id FROM sales"
            " WHERE quiet_stamp IS NOT NULL AND archived_at IS NOT NULL ORDER BY number"
        )
    return [row[0] for row in rows]


async def returned_page(
    redis: Redis, db: asyncpg.Pool, *, after: int, limit: int
) -> tuple[list[str], int]:
    """Look at the next archived sales behind a number; return those that Redis has, and the last.

    A Redis that was restored from a backup has what it had then. The number is 0 after the end.
    """
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT number, sale_id FROM sales"
            " WHERE archived_at IS NOT NULL AND number > $1 ORDER BY number LIMIT $2",
            after,
            limit,
        )
    async with open_pipeline(redis) as pipe:
        for _, sale_id in rows:
            pipe.exists(redis_keys.sale(sale_id))
        found = await pipe.execute() if rows else []
    returned = [row["sale_id"] for row, there in zip(rows, found, strict=True) if there]
    return returned, rows[-1]["number"] if len(rows) == limit else 0


async def due(
    db: asyncpg.Pool, *, age_s: float, but: Collection[str] = (), limit: int
) -> list[str]:
    """Return quiet sales, all `but` some, that closed so long ago; the oldest first."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT sale_id FROM sales"
            " WHERE quiet_stamp IS NOT NULL AND archived_at IS NULL AND opened_at IS NOT NULL"
            "   AND least(closed_at, closes_at) < now() - make_interval(secs => $1)"
            "   AND sale_id <> ALL ($2) ORDER BY number LIMIT $3",
            age_s,
            list(but),
            limit,
        )
    return [row[0] for row in rows]


async def _mark(redis: Redis, db: asyncpg.Pool, sale: Sale, actor: str, reason: str) -> None:
    before = await _stamp(redis, db, sale)
    _require_quiet(sale, await verify(redis, db, sale.sale_id))
    async with transaction(db) as connection:
        await sales.lock_kept(connection, sale.sale_id)
        # Every change of the sale's orders ends with an update of this row.
        await connection.execute(
            "SELECT FROM inventory WHERE sale_id = $1 FOR UPDATE", sale.sale_id
        )
        if await _stamp(redis, db, sale) != before:
            raise Conflict(f"sale {sale.sale_id} changed just now; nothing was archived, try again")
        archived = await connection.fetchval(_ARCHIVE, sale.sale_id, before.text())
        if not archived:
            raise WrongState(
                f"sale {sale.sale_id} is {sale.state}; close it first: "
                f"seckill sale close {sale.sale_id}"
            )
        await audit.record(
            connection,
            "sale.archive",
            actor=actor,
            reason=reason,
            sale_id=sale.sale_id,
            details={"stamp": before.text()},
        )


async def _stamp(redis: Redis, db: asyncpg.Pool, sale: Sale) -> ChangeStamp:
    """Return the stamp of a sale that Redis has whole."""
    state = (await fencing.survey(redis, db, [sale.sale_id])).get(sale.sale_id)
    if state is None:
        raise Conflict(f"sale {sale.sale_id} was archived or deleted meanwhile")
    if state.fence_reason:
        raise WrongState(fencing.advice(sale.sale_id, state.fence_reason))
    if state.stamp is None:
        raise AssertionError(f"bug: sale {sale.sale_id} is neither whole nor fenced")
    return state.stamp


def _require_quiet(sale: Sale, ledger: Ledger) -> None:
    sale_id = sale.sale_id
    if not sale.was_opened:
        raise WrongState(
            f"sale {sale_id} was never opened; remove it: seckill sale delete {sale_id}"
        )
    if not ledger.balanced:
        raise WrongState(
            f"sale {sale_id} does not balance ({ledger.violations[0]}); "
            f"look what is wrong: seckill verify {sale_id}"
        )
    if letters := ledger.lines["dead letters"]:
        raise WrongState(
            f"{letters} open dead letters are of sale {sale_id}; "
            f"look at them: seckill dead list --sale {sale_id}"
        )
    if (held := ledger.lines["frozen"]) or not ledger.quiet:
        raise WrongState(
            f"sale {sale_id} is not quiet yet: {held} units are held by unpaid orders, "
            f"or something is still under way; look: seckill verify {sale_id} --wait 60"
        )
