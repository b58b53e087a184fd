"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import asyncpg

from config.addresses import parse_address
from seckill.adapters.failures import POSTGRESQL, store_errors_as_unavailable
from seckill.adapters.marks import foreign
from seckill.adapters.postgres_sessions import Session, Sessions
from seckill.errors import Unavailable

#: Least time between two drops: a server that only reads must not cost a connect for every call.
DROP_APART_S = 1.0
#: SQLSTATE of a write to a server that only reads.
READ_ONLY = "25006"
#: The timeline of a primary, as the beginning of its log's file names, which sort like numbers.
_TIMELINE = """
SELECT CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
"""


@contextmanager
def database_errors_as_unavailable() -> Iterator[None]:
    """Raise Unavailable for every failure of the store; let errors of the data through."""
    with store_errors_as_unavailable(POSTGRESQL):
        yield


@asynccontextmanager
async def transaction(
    db: asyncpg.Pool | asyncpg.Connection, *, snapshot: bool = False
) -> AsyncIterator[asyncpg.Connection]:
    """Open a transaction; as a snapshot it only reads, and sees one moment throughout.

    On a connection that is in a transaction it is a part of that one, which an error undoes alone.

    Raise Unavailable for every failure of the store; another transaction in the way is one.
    """
    options = {"isolation": "repeatable_read", "readonly": True} if snapshot else {}
    with database_errors_as_unavailable():
        async with AsyncExitStack() as stack:
            connection = db
            if not isinstance(db, asyncpg.Connection):
                connection = await stack.enter_async_context(db.acquire())
            await stack.enter_async_context(connection.transaction(**options))
            yield connection


@asynccontextmanager
async def connect(
    dsn: str, *, size: int, timeout_s: float, at_once: bool = True
) -> AsyncIterator[asyncpg.Pool]:
    """Open a pool of up to `size` connections. Raise Unavailable if the server does not answer.

    Without `at_once` the first query connects, and the server may be unavailable until then.
    """
    links, installation, primary = _ReadOnlyLinks(), _OneInstallation(), _NewestPrimary()

    async def check(connection: asyncpg.Connection) -> None:
        await installation.compare(connection)
        if len(parse_address(dsn).hosts) > 1 and await primary.is_new(connection):
            # What is left of the old one may still answer, and know nothing of the new orders.
            await pool.expire_connections()

    pool: asyncpg.Pool = await asyncpg.create_pool(
        connect=Sessions(dsn, timeout_s, check=check).connect,
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
        except asyncpg.InsufficientPrivilegeError:
            if self._first:
                raise
            found = None  # the checks at start name all rights that the role lacks
        self._first = self._first or found
        if found != self._first:
            raise foreign(POSTGRESQL, found or "unknown", self._first or "unknown")


class _NewestPrimary:
    """Keeps a pool away from a primary that another server has replaced.

    It may not know of that, after it was frozen or cut off, and take writes that are lost.
    Each promotion begins a timeline with a higher number.
    """

    def __init__(self) -> None:
        self._timeline = ""

    async def is_new(self, connection: asyncpg.Connection) -> bool:
        """Return whether a server has taken over; raise Unavailable if this one is replaced."""
        timeline: str = await connection.fetchval(_TIMELINE)
        if timeline < self._timeline:
            text = "PostgreSQL refuses: another server has taken over from it"
            raise Unavailable(text, store=POSTGRESQL, code=READ_ONLY)
        took_over = "" < self._timeline < timeline
        self._timeline = timeline
        return took_over


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
