"""The looks at the three stores: each does, on trial, what the work of a process needs.

A look raises the failure that the work would meet, so its reason is in the store's own words.
"""

from __future__ import annotations

from functools import cache, partial

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from config.settings import Settings
from seckill.adapters import schema
from seckill.adapters.failures import POSTGRESQL, RABBITMQ, REDIS
from seckill.adapters.postgres import READ_ONLY, database_errors_as_unavailable
from seckill.adapters.publisher import Publisher
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.errors import FailureKind, NotReady, Unavailable
from seckill.health.watch import Look
from seckill.inventory.trial import try_grab

_STATE = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"


def looks(settings: Settings, redis: Redis, db: asyncpg.Pool, publisher: Publisher) -> list[Look]:
    """Return the looks at the stores, over the clients that a process works with.

    Each has the time limits of two calls: it makes two, or waits for a connection first.
    """
    return [
        Look(REDIS, "Redis", partial(look_at_redis, redis), 2 * settings.redis_timeout_s),
        Look(
            POSTGRESQL,
            "PostgreSQL",
            partial(look_at_postgresql, db),
            2 * settings.postgres_timeout_s,
        ),
        Look(RABBITMQ, "RabbitMQ", publisher.check, 2 * settings.confirm_timeout_s),
    ]


async def look_at_redis(redis: Redis) -> None:
    """Raise Unavailable unless this Redis takes grabs, and keeps what it takes."""
    await try_grab(redis)
    with redis_errors_as_unavailable():
        try:
            role, *place = await redis.role()
        except ResponseError:  # a managed Redis may forbid the question
            return
    if role == b"slave":
        master = ":".join(
            each.decode() if isinstance(each, bytes) else str(each) for each in place[:2]
        )
        raise Unavailable(
            f"Redis is a replica of {master}: what it takes is lost", store=REDIS, code="READONLY"
        )


async def look_at_postgresql(db: asyncpg.Pool) -> None:
    """Raise Unavailable unless PostgreSQL takes writes and has the schema of this version."""
    with database_errors_as_unavailable():
        standby, read_only = await db.fetchrow(_STATE)
        if standby:
            raise Unavailable(
                "PostgreSQL is a standby, which takes no writes", store=POSTGRESQL, code=READ_ONLY
            )
        if read_only:
            raise Unavailable(
                "PostgreSQL takes no writes: transaction_read_only is on",
                store=POSTGRESQL,
                code=READ_ONLY,
            )
        try:
            fault = (await schema.look(db, _numbered())).fault
        except NotReady as error:
            fault = str(error)
    if fault:
        raise Unavailable(
            f"PostgreSQL has another schema than this version: {fault}",
            kind=FailureKind.CONFIGURATION,
            store=POSTGRESQL,
            code="schema",
        )


_numbered = cache(schema.numbered_files)
