"""Sessions of PostgreSQL: on one of several hosts, direct or through a pooler.

A pooler in transaction mode, such as PgBouncer, gives every transaction another session of the
server. What one statement leaves behind (a setting, a prepared statement) the next one does not
find, and another client may. So behind a pooler each statement is in a transaction that begins with
its settings, and no statement has a name. Whether there is a pooler is seen at each new connection.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import asyncpg

from config.addresses import Host, parse_address
from config.field_types import SESSION_ATTRS
from seckill.adapters.failures import POSTGRESQL
from seckill.adapters.hosts import Hosts
from seckill.errors import Unavailable

log = logging.getLogger(__name__)

SETTINGS = {
    # Longest wait for another batch; beyond it the batch is retried rather than stuck. It ends
    # before the call does (postgres_timeout_s, 2 s): so a lock that an operator holds is known as
    # one, and is never taken for a message that is slow by its own fault.
    "lock_timeout": "1500ms",
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
_BEGIN_WITH = " ".join(f"SET LOCAL {name} = '{value}';" for name, value in SETTINGS.items())
_SET = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SETTINGS.items())
#: Statements that asyncpg keeps prepared on a direct connection; its own default.
STATEMENTS_KEPT = 100
#: Has a row where the server writes; a standby does not.
_WRITES = "SELECT WHERE current_setting('transaction_read_only') = 'off'"
#: What the server says about a query without rows.
NONE = "SELECT 0"


class Session(asyncpg.Connection):  # type: ignore[misc]  # untyped
    """A direct connection. Of asyncpg's calls that send statements, these four are used."""

    #: Whether the server refused to write: it was demoted, and another one may have taken over.
    is_read_only = False

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> Any:  # noqa: ANN401
        """Run a statement; return what the server says about it."""
        async with self._statement():
            return await super().execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Return the rows of a statement."""
        async with self._statement():
            return await super().fetch(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Return a value of the first row of a statement."""
        async with self._statement():
            return await super().fetchval(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Return the first row of a statement."""
        async with self._statement():
            return await super().fetchrow(query, *args, **options)

    @asynccontextmanager
    async def _statement(self) -> AsyncIterator[None]:
        try:
            yield
        except asyncpg.ReadOnlySQLTransactionError:
            self.is_read_only = True
            raise


class PooledSession(Session):
    """A connection to a pooler."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> Any:  # noqa: ANN401
        """Run a statement; one that begins a transaction brings the settings along."""
        if query.startswith("BEGIN"):  # from asyncpg's own transaction()
            return await asyncpg.Connection.execute(self, query + _BEGIN_WITH, timeout=timeout)
        return await super().execute(query, *args, timeout=timeout)

    @asynccontextmanager
    async def _statement(self) -> AsyncIterator[None]:
        # asyncpg parses a statement in one message and runs it in the next. Without a transaction
        # around both, the second might run what another client has parsed on that session.
        whole = nullcontext() if self.is_in_transaction() else self.transaction()
        async with super()._statement(), whole:
            yield


class Sessions:
    """Opens connections for a pool."""

    def __init__(
        self, dsn: str, timeout_s: float, *, check: Callable[[asyncpg.Connection], Awaitable[None]]
    ) -> None:
        self._dsn, self._timeout_s, self._check = dsn, timeout_s, check
        self._hosts = Hosts(dsn, POSTGRESQL)
        self._pooled = False

    async def connect(self, *_: object, **__: object) -> asyncpg.Connection:
        """Open a connection to the first host that fits; raise Unavailable if none does.

        The arguments are the pool's own, and say nothing new.
        """
        return await self._hosts.first(self._open)

    async def _open(self, host: Host | None) -> asyncpg.Connection:
        """Open a connection that knows whether there is a pooler."""
        while True:
            pooled = self._pooled
            connection = await connect_to(
                host,
                self._dsn,
                timeout=self._timeout_s,
                command_timeout=self._timeout_s,
                server_settings={"application_name": "seckill"},  # poolers refuse most others
                statement_cache_size=0 if pooled else STATEMENTS_KEPT,
                connection_class=PooledSession if pooled else Session,
            )
            try:
                if await _is_pooled(connection) == pooled:
                    await self._check(connection)
                    return connection
            except BaseException:
                connection.terminate()
                raise
            # Found at the first connection, or when a pooler was put in between or taken away.
            self._pooled = not pooled
            address, found = host or self._hosts.address, "no pooler" if pooled else "a pooler"
            log.info("PostgreSQL at %s has %s in between", address, found)
            await connection.close(timeout=self._timeout_s)


async def _is_pooled(connection: asyncpg.Connection) -> bool:
    """Return whether there is a pooler, and set the settings of a direct connection.

    A pooler makes up the process id that it greets a client with: it stands for the client, not for
    a session of the server. All in one message, so that no setting can go to a session of others.
    """
    pid = connection.get_server_pid()
    return bool(await connection.execute(f"SELECT {_SET} WHERE pg_backend_pid() = {pid}") == NONE)


async def connect_to(host: Host | None, dsn: str, **options: Any) -> asyncpg.Connection:  # noqa: ANN401
    """Open a connection to one of the hosts of a URL.

    Raise Unavailable if the host only reads, and the URL asks for one that writes, or has several.
    """
    place = {"host": host.name, "port": host.port} if host else {}
    # asyncpg's own look at the server would leave a statement behind in a pooler's session.
    connection = await asyncpg.connect(dsn, **place, target_session_attrs="any", **options)
    address = parse_address(dsn)
    wanted = address.query(SESSION_ATTRS) or ("read-write" if len(address.hosts) > 1 else "any")
    try:
        if wanted != "any" and await connection.execute(_WRITES) == NONE:
            text = "PostgreSQL refuses: it is a standby, or read-only"
            raise Unavailable(text, store=POSTGRESQL, code="25006")
    except BaseException:
        connection.terminate()
        raise
    return connection
