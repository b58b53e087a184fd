"""Apply the numbered SQL files to a database, each once and whole.

Each file has a transaction of its own. That transaction takes an advisory lock first, so of several
runners one works at a time. The lock ends with the transaction, which is why it also works behind a
connection pooler that gives out connections by transaction.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files

import asyncpg

from config.addresses import parse_address
from seckill.adapters import schema
from seckill.adapters.failures import (
    POSTGRESQL,
    store_errors_as_unavailable,
    store_failure,
    words,
)
from seckill.adapters.hosts import Hosts
from seckill.adapters.postgres_sessions import connect_to
from seckill.adapters.schema import LAST_OF_0_1_0, UPGRADE_FILE, Schema, SqlFile
from seckill.errors import NotReady, SeckillError, Unavailable
from seckill.tasks import end_tasks

#: One number for all migration runs of this project.
MIGRATION_LOCK = 0x5EC_4111
#: Longest wait for a lock. Every other query of the table queues behind a migration that waits, so
#: the wait is no longer than their own `lock_timeout` (seckill.adapters.postgres).
LOCK_TIMEOUT_S = 3
#: A server that is up answers at once; what waits for a migration should hear of it soon.
CONNECT_S = 5
#: Pause between two looks at the sessions that block a migration. A migration that ends within one
#: pause never needs the second connection.
WATCH_EVERY_S = 0.25
#: Longest part of a blocking session's query that fits a line.
QUERY_CHARS_MAX = 80

_SETTINGS = f"""
SELECT set_config('lock_timeout', '{LOCK_TIMEOUT_S}s', true),
       -- A runner that is frozen in its transaction must not lock tables for good.
       set_config('idle_in_transaction_session_timeout', '5s', true), pg_backend_pid()
"""
_MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, checksum text NOT NULL)
"""
_BLOCKERS = """
SELECT pid, application_name, state, query
  FROM unnest(pg_blocking_pids($1)) AS blocking (pid) LEFT JOIN pg_stat_activity USING (pid)
 ORDER BY pid
"""
_MAY_CREATE = """
SELECT has_schema_privilege(to_regnamespace('public'), 'CREATE'), quote_ident(current_user)
"""
FUNCTION = re.compile(r"^CREATE OR REPLACE FUNCTION .*?\$\$;$", re.MULTILINE | re.DOTALL)


async def migrate(dsn: str) -> list[str]:
    """Apply the numbered files that are not applied yet; return the names of what was applied.

    Raise NotReady if the database has files that this version does not know. Raise SeckillError if
    a lock is not free in time or a file fails, Unavailable if the store refuses.
    """
    applied = []
    async with _connection(dsn) as connection:
        while (found := await _look(dsn, connection)).missing:
            try:
                applied += await _apply_next(dsn, connection)
            except asyncpg.InsufficientPrivilegeError as error:
                raise await _with_grant(connection, error) from error
    if found.fault:
        raise NotReady(found.fault)
    return applied


async def _with_grant(connection: asyncpg.Connection, error: Exception) -> Exception:
    """Return the failure, with the line to type if the role may not make tables."""
    may_create, role = await connection.fetchrow(_MAY_CREATE)
    failure = store_failure(error, POSTGRESQL)
    if failure is None or may_create is not False:
        return error
    return failure.adding(f"; type there: GRANT USAGE, CREATE ON SCHEMA public TO {role}")


async def look(dsn: str) -> Schema:
    """Return what the database has; raise SeckillError as `migrate` does."""
    async with _connection(dsn) as connection:
        return await _look(dsn, connection)


async def _look(dsn: str, connection: asyncpg.Connection) -> Schema:
    # A database that is up to date needs no lock, and no right to make tables.
    async with _transaction(dsn, connection):
        return await schema.look(connection)


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await _connect(dsn)
    try:
        yield connection
    except Exception as error:
        failure = store_failure(error, POSTGRESQL)
        if failure is None:
            raise
        raise failure.at(str(parse_address(dsn))) from error
    finally:
        connection.terminate()  # no transaction is open, and a broken link would not close


async def _connect(dsn: str) -> asyncpg.Connection:
    # A pooler may give each transaction another session, where no prepared statement is known.
    connect = partial(
        connect_to,
        dsn=dsn,
        server_settings={"application_name": "seckill migrate"},
        statement_cache_size=0,
        timeout=CONNECT_S,
    )
    return await Hosts(dsn, POSTGRESQL).first(connect)


async def _apply_next(dsn: str, connection: asyncpg.Connection) -> list[str]:
    """Apply the first file that is not applied; return its name, or nothing when all are."""
    async with _transaction(dsn, connection):
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        await connection.execute(_MIGRATIONS_TABLE)
        found = await schema.look(connection)
        if found.foreign:
            raise NotReady(found.foreign)
        for name in found.missing[:1]:
            await (_upgrade(connection) if name == UPGRADE_FILE else _apply(connection, name))
        return [*found.missing[:1]]


@asynccontextmanager
async def _transaction(dsn: str, connection: asyncpg.Connection) -> AsyncIterator[None]:
    # Read committed: after the wait for its turn a runner has to see what the other one applied.
    async with connection.transaction(isolation="read_committed"):
        *_, pid = await connection.fetchrow(_SETTINGS)
        async with _named_lock_waits(dsn, pid):
            yield


async def _apply(connection: asyncpg.Connection, name: str) -> None:
    file = next(file for file in schema.numbered_files() if file.name == name)
    try:
        await connection.execute(file.text)
    except asyncpg.PostgresError as error:
        if store_failure(error, POSTGRESQL):
            raise
        # The rows that are there do not fit the new schema.
        raise SeckillError(f"{name} cannot be applied to this database: {words(error)}") from error
    await _record(connection, file)


async def _upgrade(connection: asyncpg.Connection) -> None:
    """Bring a database of the old numbering to the state after LAST_OF_0_1_0."""
    await connection.execute(files("seckill.sql").joinpath(UPGRADE_FILE).read_text("utf-8"))
    await connection.execute("DELETE FROM migrations")
    for file in schema.numbered_files():
        if file.name <= LAST_OF_0_1_0:
            for function in FUNCTION.findall(file.text):
                await connection.execute(function)
            await _record(connection, file)


async def _record(connection: asyncpg.Connection, file: SqlFile) -> None:
    await connection.execute("INSERT INTO migrations VALUES ($1, $2)", file.name, file.checksum)


@asynccontextmanager
async def _named_lock_waits(dsn: str, pid: int) -> AsyncIterator[None]:
    """Raise SeckillError, with the sessions in the way, if the session `pid` waits for too long.

    A second connection looks for those sessions during the wait: PostgreSQL forgets who was in the
    way as soon as the wait has timed out.
    """
    sessions: list[str] = []
    watch = asyncio.create_task(_watch(dsn, pid, sessions), name="migration lock waits")
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise SeckillError(
            f"the migration gives up: it waited for {' and '.join(sessions) or error}; "
            "end that session or wait for its end, then start again"
        ) from error
    finally:
        await end_tasks(watch)


async def _watch(dsn: str, pid: int, sessions: list[str]) -> None:
    await asyncio.sleep(WATCH_EVERY_S)
    try:
        with store_errors_as_unavailable(POSTGRESQL):
            connection = await _connect(dsn)
            try:
                while True:
                    async with connection.transaction():  # one session for parsing and running
                        rows = await connection.fetch(_BLOCKERS, pid)
                    if rows:
                        sessions[:] = map(_describe, rows)
                    await asyncio.sleep(WATCH_EVERY_S)
            finally:
                connection.terminate()
    except Unavailable as error:
        # Who blocks is only for the message. The migration itself may well succeed.
        sessions[:] = [f"a session that cannot be looked up ({error})"]


def _describe(session: asyncpg.Record) -> str:
    if not session["pid"]:
        return "a prepared transaction (see pg_prepared_xacts)"
    query = " ".join((session["query"] or "").split())[:QUERY_CHARS_MAX]
    name, state = session["application_name"] or "no name", session["state"] or "state unknown"
    return f'pid {session["pid"]} ({name}, {state}, "{query}")'
