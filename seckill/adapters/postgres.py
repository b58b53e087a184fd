"""Connections to PostgreSQL, its numbered migrations, and what its errors mean."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from urllib.parse import urlsplit

import asyncpg

from seckill.errors import SeckillError, Unavailable

#: One number for all migration runs of this project.
MIGRATION_LOCK = 0x5EC_4111

SERVER_SETTINGS = {
    "application_name": "seckill",
    # Longest wait for another batch; beyond it the batch is retried rather than stuck.
    "lock_timeout": "3s",
    # A process frozen in mid-transaction must not hold the hot inventory row.
    "idle_in_transaction_session_timeout": "5s",
    # Compiling a plan takes longer than anything that this project asks for.
    "jit": "off",
    # What is asked for by key is in memory or on flash. As for a disk that has to seek, a batch of
    # some hundred keys would be looked for by reading a whole table of a hundred thousand rows.
    "random_page_cost": "1.1",
    # A plan made while a table was empty reads all of it when it is large: on a new database
    # `release` then holds its locks six times as long, until autovacuum has come round.
    "plan_cache_mode": "force_custom_plan",
}

#: The server is away or going away, or the link broke: hold the work and try again.
AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
#: Another transaction was in the way (40xxx, lock_timeout): the same transaction may work at once.
CONTENTION = (asyncpg.TransactionRollbackError, asyncpg.LockNotAvailableError)


@contextmanager
def database_errors_as_unavailable() -> Iterator[None]:
    """Turn "PostgreSQL is away" and contention into Unavailable; let real errors through."""
    try:
        yield
    except (*AWAY, *CONTENTION) as error:
        raise Unavailable(f"PostgreSQL does not answer: {error or type(error).__name__}") from error


@asynccontextmanager
async def connect(
    dsn: str, *, size: int, timeout_s: float, at_once: bool = True
) -> AsyncIterator[asyncpg.Pool]:
    """Open a pool of up to `size` connections; Unavailable when the server is not there.

    Not `at_once`: the first query connects, and the server may be away until then.
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
            async with pool.acquire():  # is it there?
                pass
    except (*AWAY, asyncpg.PostgresError) as error:
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
    """Save a round trip after every use: nobody leaves anything behind in a session.

    asyncpg itself rolls back what was left open. Locks and settings are a transaction's here
    (`pg_try_advisory_xact_lock`, `set_config(..., true)`).
    """


async def migrate(dsn: str) -> list[str]:
    """Apply the numbered SQL files that are not applied yet; return their names.

    One runner at a time (advisory lock). A file that was applied and has changed since is an
    error: a change to the schema is a new file.
    """
    connection = await asyncpg.connect(dsn)
    try:
        return await _migrate(connection)
    finally:
        await connection.close()


async def _migrate(connection: asyncpg.Connection) -> list[str]:
    await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, checksum text NOT NULL)"
    )
    applied = dict(await connection.fetch("SELECT name, checksum FROM migrations"))
    new = []
    for file in sorted(files("seckill.sql").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".sql"):
            continue
        text = file.read_text()
        checksum = hashlib.sha256(text.encode()).hexdigest()
        if file.name not in applied:
            async with connection.transaction():
                await connection.execute(text)
                await connection.execute(
                    "INSERT INTO migrations VALUES ($1, $2)", file.name, checksum
                )
            new.append(file.name)
        elif applied[file.name] != checksum:
            raise SeckillError(
                f"{file.name} has changed since it was applied to this database; "
                "put the change into a new numbered file, or start with an empty database"
            )
    return new
