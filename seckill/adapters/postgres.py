"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import asyncpg

from seckill.errors import Unavailable

SERVER_SETTINGS = {
    "application_name": "seckill",
    # Longest wait for another batch; beyond it the batch is retried rather than stuck.
    "lock_timeout": "3s",
    # A process frozen in mid-transaction must not hold the hot inventory row.
    "idle_in_transaction_session_timeout": "5s",
    # Compiling a plan takes longer than any query of this project.
    "jit": "off",
    # Rows that are read by key are in memory or on flash. With the default, which is for a disk
    # that has to seek, a batch of some hundred keys reads a whole table of a hundred thousand rows.
    "random_page_cost": "1.1",
    # A plan that was made for an empty table reads the whole table when it is large. On a new
    # database `release` then holds its locks six times as long, until the first autovacuum.
    "plan_cache_mode": "force_custom_plan",
}

#: The server is unavailable or stops, or the connection broke: hold the work and try again.
UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
#: Another transaction was in the way (40xxx, lock_timeout): the same one may succeed at once.
CONTENTION = (asyncpg.TransactionRollbackError, asyncpg.LockNotAvailableError)


@contextmanager
def database_errors_as_unavailable() -> Iterator[None]:
    """Raise Unavailable if the server is unavailable or a lock is; let real errors through."""
    try:
        yield
    except (*UNAVAILABLE, *CONTENTION) as error:
        raise Unavailable(f"PostgreSQL does not answer: {error or type(error).__name__}") from error


@asynccontextmanager
async def transaction(
    db: asyncpg.Pool, *, snapshot: bool = False
) -> AsyncIterator[asyncpg.Connection]:
    """Open a transaction; as a snapshot it only reads, and sees one moment throughout.

    Raise Unavailable if PostgreSQL is unavailable or another transaction is in the way.
    """
    options = {"isolation": "repeatable_read", "readonly": True} if snapshot else {}
    with database_errors_as_unavailable():
        async with db.acquire() as connection, connection.transaction(**options):
            yield connection


@asynccontextmanager
async def connect(
    dsn: str, *, size: int, timeout_s: float, at_once: bool = True
) -> AsyncIterator[asyncpg.Pool]:
    """Open a pool of up to `size` connections. Raise Unavailable if the server does not answer.

    Without `at_once` the first query connects, and the server may be unavailable until then.
    """
    where = urlsplit(dsn)
    try:
        pool = await asyncpg.create_pool(
            dsn,
            min_size=0,  # a floor is restored in the background, with a traceback at each failure
            max_size=size,
            timeout=timeout_s,
            command_timeout=timeout_s,
            server_settings=SERVER_SETTINGS,
            reset=_nothing_to_reset,
        )
        if at_once:
            async with pool.acquire():  # fails if the server does not answer
                pass
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        raise Unavailable(
            f"PostgreSQL at {where.hostname}:{where.port} does not answer: {error}"
        ) from error
    try:
        yield pool
    finally:
        try:
            await asyncio.wait_for(pool.close(), timeout_s)
        except TimeoutError:
            pool.terminate()


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """Save a round trip after every use: no query leaves anything behind in its session.

    asyncpg itself rolls back an open transaction. Locks and settings end with their transaction
    (`pg_try_advisory_xact_lock`, `set_config(..., true)`).
    """
