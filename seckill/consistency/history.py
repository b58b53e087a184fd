"""Notice that PostgreSQL was restored from a backup, and has forgotten what it had committed.

A mark in PostgreSQL only grows. Consumers raise it several times a second, and remember it in Redis
after the commit. So a PostgreSQL whose mark is below the remembered one is back in time. What it
has forgotten is then in Redis (holders), on the broker (messages) and with the card provider
(charges), and `seckill sale recover` brings it together again (recovery.py).

What was committed after the last mark may be forgotten without a notice. It heals by itself:
`reconcile` places holders without a row again, and a charge is found by its key.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg
from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable
from seckill.inventory.reservations import Stock

_MARK = "mark"


async def is_back_in_time(redis: Redis, db: asyncpg.Pool) -> bool:
    """Return whether PostgreSQL has forgotten something that no sale was fenced for yet.

    Redis is read first: PostgreSQL has committed each mark before Redis remembers it.
    """
    remembered = await _remembered(redis)
    with database_errors_as_unavailable():
        mark: int = await db.fetchval("SELECT mark FROM history")
    return mark < remembered


async def advance(redis: Redis, db: asyncpg.Pool) -> bool:
    """Raise the mark and remember it; return False, and do neither, if PostgreSQL is back in time.

    A mark that is behind stays behind: otherwise it would catch up before anything was fenced.
    """
    remembered = await _remembered(redis)
    with database_errors_as_unavailable():
        mark = await db.fetchval(
            "UPDATE history SET mark = mark + 1 WHERE mark >= $1 RETURNING mark", remembered
        )
    if mark is None:
        return False
    await _remember(redis, mark)
    return True


async def remember_versions(redis: Redis, versions: Mapping[str, int]) -> None:
    """Remember the versions of sales: a closed sale is fenced only if it has lost one."""
    if versions:
        with redis_errors_as_unavailable():
            await redis.hset(redis_keys.sale_versions(), mapping=dict(versions.items()))


async def fence_restored(redis: Redis, db: asyncpg.Pool) -> tuple[list[str], list[str]]:
    """Fence the sales of which PostgreSQL forgot something; return them, and those that are gone.

    A sale that goes on is always one of them: since the restore it may have changed as often as
    before. Redis is fenced first, and the mark raised last, so that a crash repeats all of it.
    """
    remembered = await _remembered(redis)
    with redis_errors_as_unavailable():
        texts: dict[bytes, bytes] = await redis.hgetall(redis_keys.sale_versions())  # type: ignore[assignment]  # no decoding
    versions = {sale_id.decode(): int(version) for sale_id, version in texts.items()}
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT sale_id, version, state IN ('open', 'paused') FROM sales"
            "  JOIN inventory USING (sale_id) WHERE opened_at IS NOT NULL ORDER BY number"
        )
        known = {row[0] for row in await db.fetch("SELECT sale_id FROM sales")}
    fenced = [
        sale_id
        for sale_id, version, goes_on in rows
        if goes_on or version < versions.get(sale_id, 0)
    ]
    stock = Stock(redis)
    for sale_id in fenced:
        await stock.set_sale_state(sale_id, "fenced")
    async with transaction(db) as connection:
        await connection.execute(
            "INSERT INTO restored_sales (sale_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
            fenced,
        )
        mark = await connection.fetchval(
            "UPDATE history SET mark = greatest(mark, $1) + 1 RETURNING mark", remembered
        )
    await _remember(redis, mark)
    return fenced, await _in_redis(redis, sorted(versions.keys() - known))


async def _remembered(redis: Redis) -> int:
    with redis_errors_as_unavailable():
        return int(await redis.zscore(redis_keys.history(), _MARK) or 0)


async def _remember(redis: Redis, mark: int) -> None:
    with redis_errors_as_unavailable():  # GT: of two consumers the slower one changes nothing
        await redis.zadd(redis_keys.history(), {_MARK: mark}, gt=True)


async def _in_redis(redis: Redis, sale_ids: list[str]) -> list[str]:
    """Return the sales that Redis has, and forget the versions of all of them."""
    if not sale_ids:
        return []
    async with open_pipeline(redis) as pipe:
        for sale_id in sale_ids:
            pipe.exists(redis_keys.sale(sale_id))
        pipe.hdel(redis_keys.sale_versions(), *sale_ids)
        *found, _ = await pipe.execute()
    return [sale_id for sale_id, there in zip(sale_ids, found, strict=True) if there]
