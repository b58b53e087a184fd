"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg

from seckill.adapters.failures import POSTGRESQL, store_errors_as_unavailable
from seckill.adapters.marks import foreign
from seckill.adapters.postgres_sessions import Session, Sessions

#: Least time between two drops: a server that only reads must not cost a connect for every call.
DROP_APART_S = 1.0


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
    links = _ReadOnlyLinks()
    pool: asyncpg.Pool = await asyncpg.create_pool(
        connect=Sessions(dsn, timeout_s, check=_OneInstallation().compare).connect,
        min_size=0,  # a floor is restored in the background, with a traceback at each failure
        max_size=size,
        reset=lambda connection: links.reset(pool, connection),
    )
    if at_once:
        async with pool.acquire():  # fails if the server does not answer
            pass
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
            found = await connection.fetchval("SELECT id FROM installation")
        except asyncpg.UndefinedTableError:  # no schema yet: whoever needs one says so
            found = None
        self._first = self._first or found
        if found != self._first:
            raise foreign(POSTGRESQL, found or "unknown", self._first or "unknown")


class _ReadOnlyLinks:
    """Drops the connections of a pool when one of them leads to a server that only reads."""

    def __init__(self) -> None:
        self._dropped_at = float("-inf")

    async def reset(self, pool: asyncpg.Pool, connection: Session) -> None:
        """Reset a connection after its use. No query leaves anything behind in its session.

        asyncpg itself rolls back an open transaction. Locks and settings end with their transaction
        (`pg_try_advisory_xact_lock`, `set_config(..., true)`).
        """
        now = time.monotonic()
        if connection.is_read_only and now - self._dropped_at > DROP_APART_S:
            self._dropped_at = now
            await pool.expire_connections()
