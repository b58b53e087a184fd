"""The id of this installation, and how its stores are known to be its own.

PostgreSQL has the id, made with the schema. Redis and RabbitMQ carry a mark with it. Every new
connection to a store is compared before it is lent: so a store of another installation is refused
at start, and also when an address leads somewhere else after a reconnect. A store without a mark is
new, or was emptied: the first installation that connects marks it as its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from redis.asyncio import Redis

from seckill.adapters import namespace, redis_keys
from seckill.adapters.failures import POSTGRESQL, REDIS, store_failure
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.redis_cluster import close_links
from seckill.adapters.redis_sentinel import MasterPool
from seckill.errors import FailureKind, ForeignStore
from seckill.tasks import end_tasks

#: Time between two looks at the mark in Redis: as often as a sale that went back in time is looked
#: for (consumers/roles/fence.py). A look is one GET.
LOOK_S = 1.0
#: The first process decides about the namespace, even one that another store then refuses.
_FORGET = "UPDATE installation SET namespace = NULL"

log = logging.getLogger(__name__)


async def join(db: asyncpg.Pool, name: str) -> str:
    """Use a namespace, and return the id of the installation.

    The first process of an installation decides about its namespace. Raise ForeignStore if the
    database belongs to another one: its sales have other names in the other stores, so they would
    be sold twice.
    """
    namespace.use(name)
    with database_errors_as_unavailable():
        row = await db.fetchrow("SELECT id, namespace FROM installation")
        if row["namespace"] is None:
            row = await db.fetchrow(
                "UPDATE installation SET namespace = coalesce(namespace, $1)"
                " RETURNING id, namespace",
                name,
            )
    if row["namespace"] != name:
        raise ForeignStore(
            f"PostgreSQL holds the installation {row['id']} of the namespace "
            f"{row['namespace']!r}, and SECKILL_NAMESPACE is {name!r}: set it to that, or "
            "give another database in SECKILL_POSTGRES_DSN, or, if this one has no sale yet, stop "
            f"all processes and type there: {_FORGET}",
            kind=FailureKind.CONFIGURATION,
            store=POSTGRESQL,
        )
    return str(row["id"])


@asynccontextmanager
async def watched(redis: Redis, installation_id: str) -> AsyncIterator[None]:
    """Look at the mark in Redis for as long as the block lasts.

    Redis may be emptied, and marked by another installation, under connections that stay open.
    Those are closed then, and each new one is refused, until Redis is ours again.
    """
    task = asyncio.create_task(_watch(redis, installation_id), name="watch the mark in Redis")
    try:
        yield
    finally:
        await end_tasks(task)


async def _watch(redis: Redis, installation_id: str) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            if isinstance(redis.connection_pool, MasterPool):
                await redis.connection_pool.find_master()  # a cut-off master still takes writes
            is_ours = await _is_ours(redis, installation_id)
        except Exception as error:
            # Who works with Redis reports its failures; a new connection is compared anyway.
            if store_failure(error, REDIS) is None:
                raise
            continue
        if not is_ours:
            log.error("Redis was emptied, and is another installation's now")
            await close_links(redis)


async def _is_ours(redis: Redis, installation_id: str) -> bool:
    """Return whether Redis has our mark; an emptied one gets it again."""
    key = redis_keys.installation()
    found = await redis.get(key)
    if found is None:
        await redis.set(key, installation_id, nx=True)
    return found in (None, installation_id.encode())
