"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import asyncpg

from seckill.adapters.failures import POSTGRESQL, store_errors_as_unavailable, store_failure
from seckill.adapters.marks import foreign

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


@contextmanager
def database_errors_as_unavailable() -> Iterator[None]:
    """Raise Unavailable for every failure of the store; let errors of the data through."""
    with store_errors_as_unavailable(POSTGRESQL):
        yield


@asynccontextmanager
async def transaction(
    db: asyncpg.Pool, *, snapshot: bool = False
) -> AsyncIterator[asyncpg.Connection]:
    """Open a transaction; as a snapshot it only reads, and sees one moment throughout.

    Raise Unavailable for every failure of the store; another transaction in the way is one.
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
            init=_OneInstallation().compare,
        )
        if at_once:
            async with pool.acquire():  # fails if the server does not answer
                pass
    except Exception as error:
        failure = store_failure(error, POSTGRESQL)
        if failure is None:
            raise
        raise failure.at(f"{where.hostname}:{where.port}") from error
    try:
        yield pool
    finally:
        try:
            await asyncio.wait_for(pool.close(), timeout_s)
        except TimeoutError:
            pool.terminate()


async def ask(db: asyncpg.Pool) -> None:
    """Ask for nothing; raise Unavailable if PostgreSQL does not answer."""
    with database_errors_as_unavailable():
        await db.execute("SELECT 1")


class _OneInstallation:
    """Keeps a pool with the installation of its first connection.

    Its address may come to lead to another database, and orders would be placed there.
    """

    def __init__(self) -> None:
        self._first: str | None = None

    async def compare(self, connection: asyncpg.Connection) -> None:
        """Raise ForeignStore if a new connection leads to another installation's database."""
        try:
            found = await connection.fetchval("SELECT id::text FROM installation")
        except asyncpg.UndefinedTableError:  # no schema yet: whoever needs one says so
            found = None
        self._first = self._first or found
        if found != self._first:
            raise foreign(POSTGRESQL, found or "unknown", self._first or "unknown")


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """Save a round trip after every use: no query leaves anything behind in its session.

    asyncpg itself rolls back an open transaction. Locks and settings end with their transaction
    (`pg_try_advisory_xact_lock`, `set_config(..., true)`).
    """
