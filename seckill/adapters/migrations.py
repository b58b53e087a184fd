"""Apply the numbered SQL files to a database, each once and whole.

Each file has a transaction of its own. That transaction takes an advisory lock first, so of several
runners one works at a time. The lock ends with the transaction, which is why it also works behind a
connection pooler that gives out connections by transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from seckill.adapters.failures import POSTGRESQL, store_errors_as_unavailable
from seckill.errors import SeckillError, Unavailable

#: One number for all migration runs of this project.
MIGRATION_LOCK = 0x5EC_4111
#: Longest wait for a lock. Every other query of the table queues behind a migration that waits, so
#: the wait is no longer than their own `lock_timeout` (seckill.adapters.postgres).
LOCK_TIMEOUT_S = 3
#: Pause between two looks at the sessions that block a migration. A migration that ends within one
#: pause never needs the second connection.
WATCH_EVERY_S = 0.25
#: Longest part of a blocking session's query that fits a line.
QUERY_CHARS_MAX = 80

#: The old numbering of 0.1.0: thirteen files, in which later ones replaced functions of earlier
#: ones. Those files made the same tables as files up to LAST_OF_0_1_0 do now.
OLD_NUMBERING_FILE = "0002_orders.sql"
LAST_OF_0_1_0 = "0008_events.sql"
#: SHA-256 of the lines "NAME CHECKSUM" of those thirteen, sorted by name. A database that was made
#: by other texts may differ in ways that the upgrade does not know, so it is refused.
OLD_NUMBERING_CHECKSUM = "123b15a4a84ac9be47ef1c054d4e63f86add492dbc448daff12d5f4de04b2612"
UPGRADE_FILE = "upgrade_0_1_0.sql"

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
FUNCTION = re.compile(r"^CREATE OR REPLACE FUNCTION .*?\$\$;$", re.MULTILINE | re.DOTALL)
FUNCTION_NAME = re.compile(r"^CREATE OR REPLACE FUNCTION (\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One numbered file."""

    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Return what `migrations` has of the text."""
        return _sha256(self.text)


async def migrate(dsn: str) -> list[str]:
    """Apply the numbered files that are not applied yet; return the names of what was applied.

    Raise SeckillError if an applied file has changed since, or if a lock is not free in time.
    """
    numbered = numbered_files()
    applied = []
    connection = await _connect(dsn)
    try:
        while name := await _apply_next(dsn, connection, numbered):
            applied.append(name)
    finally:
        await connection.close()
    return applied


def numbered_files() -> list[SqlFile]:
    """Return the numbered files in their order."""
    found = [f for f in files("seckill.sql").iterdir() if re.match(r"\d+_.*\.sql$", f.name)]
    return [SqlFile(f.name, f.read_text()) for f in sorted(found, key=lambda f: f.name)]


async def _connect(dsn: str) -> asyncpg.Connection:
    # A pooler may give each transaction another session, where no prepared statement is known.
    return await asyncpg.connect(
        dsn, server_settings={"application_name": "seckill migrate"}, statement_cache_size=0
    )


async def _apply_next(
    dsn: str, connection: asyncpg.Connection, numbered: list[SqlFile]
) -> str | None:
    """Apply the first file that is not applied; return its name, or None when all are."""
    # Read committed: after the wait for its turn a runner has to see what the other one applied.
    async with connection.transaction(isolation="read_committed"):
        *_, pid = await connection.fetchrow(_SETTINGS)
        async with _named_lock_waits(dsn, pid):
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            await connection.execute(_MIGRATIONS_TABLE)
            applied = dict(await connection.fetch("SELECT name, checksum FROM migrations"))
            if OLD_NUMBERING_FILE in applied:
                return await _upgrade(connection, applied, numbered)
            _check(applied, numbered)
            file = next((file for file in numbered if file.name not in applied), None)
            if file is None:
                return None
            await connection.execute(file.text)
            await _record(connection, file)
            return file.name


def _check(applied: dict[str, str], numbered: list[SqlFile]) -> None:
    for file in numbered:
        if applied.get(file.name, file.checksum) != file.checksum:
            raise SeckillError(
                f"{file.name} has changed since it was applied to this database; "
                "put the change into a new numbered file, or start with an empty database"
            )


async def _upgrade(
    connection: asyncpg.Connection, applied: dict[str, str], numbered: list[SqlFile]
) -> str:
    """Bring a database of the old numbering to the state after LAST_OF_0_1_0."""
    old = "".join(f"{name} {checksum}\n" for name, checksum in sorted(applied.items()))
    if _sha256(old) != OLD_NUMBERING_CHECKSUM:
        raise SeckillError(
            "this database was made by SQL files that this version does not know, "
            "so it cannot be upgraded; start with an empty database"
        )
    await connection.execute(files("seckill.sql").joinpath(UPGRADE_FILE).read_text())
    await connection.execute("DELETE FROM migrations")
    for file in numbered:
        if file.name <= LAST_OF_0_1_0:
            for function in FUNCTION.findall(file.text):
                await connection.execute(function)
            await _record(connection, file)
    return UPGRADE_FILE


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
        watch.cancel()
        await asyncio.wait({watch})


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


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
