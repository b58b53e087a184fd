"""PostgreSQL as an operator, a fail-over or a full disk leaves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from loadtest.store_states.frozen import frozen
from ops.stack.services import Services

#: A PostgreSQL error of a trigger on new orders, by its SQLSTATE.
OBJECTION = """
CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'a trigger objects' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER object BEFORE INSERT ON orders EXECUTE FUNCTION object()
"""
#: A wait for each new order of a sale, longer than a consumer's time limit.
SLOWNESS = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON orders
  FOR EACH ROW WHEN (NEW.sale_id = '{sale_id}') EXECUTE FUNCTION slow()
"""


class PostgresStates:
    """PostgreSQL as an operator, a fail-over or a full disk leaves it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._url = services.postgres_dsn
        parts = urlsplit(self._url)
        self._role, self._password = parts.username, parts.password
        self._database = parts.path.lstrip("/")
        self._elsewhere = self._url.removesuffix(f"/{self._database}") + "/postgres"

    @asynccontextmanager
    async def _connected(self, url: str = "") -> AsyncIterator[asyncpg.Connection]:
        """Keep one session, which outlives what happens to the others."""
        connection = await asyncpg.connect(url or self._url)
        try:
            yield connection
        finally:
            await connection.close()

    @staticmethod
    async def _end_sessions(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    @asynccontextmanager
    async def read_only(self) -> AsyncIterator[None]:
        """Refuse every write, as after a fail-over."""
        async with self._connected() as operator:
            await operator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await operator.execute("SELECT pg_reload_conf()")
            try:
                yield
            finally:
                await operator.execute("ALTER SYSTEM RESET default_transaction_read_only")
                await operator.execute("SELECT pg_reload_conf()")

    @asynccontextmanager
    async def other_password(self) -> AsyncIterator[None]:
        """Rotate the role's password."""
        async with self._connected() as operator:
            await operator.execute(f"ALTER ROLE {self._role} PASSWORD 'another'")
            await self._end_sessions(operator)
            try:
                yield
            finally:
                await operator.execute(f"ALTER ROLE {self._role} PASSWORD '{self._password}'")

    @asynccontextmanager
    async def no_login(self) -> AsyncIterator[None]:
        """Let the role not log in."""
        async with self._connected() as operator:
            await operator.execute(f"ALTER ROLE {self._role} NOLOGIN")
            await self._end_sessions(operator)
            try:
                yield
            finally:
                await operator.execute(f"ALTER ROLE {self._role} LOGIN")

    @asynccontextmanager
    async def renamed_database(self) -> AsyncIterator[None]:
        """Give the database another name."""
        async with self._connected(self._elsewhere) as operator:
            await operator.execute(f"ALTER DATABASE {self._database} ALLOW_CONNECTIONS false")
            await self._end_sessions(operator)
            await operator.execute(f"ALTER DATABASE {self._database} RENAME TO elsewhere")
            try:
                yield
            finally:
                await operator.execute(f"ALTER DATABASE elsewhere RENAME TO {self._database}")
                await operator.execute(f"ALTER DATABASE {self._database} ALLOW_CONNECTIONS true")

    @asynccontextmanager
    async def without_function(self) -> AsyncIterator[None]:
        """Be of a schema that has no `place`."""
        async with self._connected() as operator:
            await operator.execute("ALTER FUNCTION place RENAME TO place_of_later")
            try:
                yield
            finally:
                await operator.execute("ALTER FUNCTION place_of_later RENAME TO place")

    @asynccontextmanager
    async def without_table(self) -> AsyncIterator[None]:
        """Be of a schema that has no `orders`."""
        async with self._connected() as operator:
            await operator.execute("ALTER TABLE orders RENAME TO orders_of_later")
            try:
                yield
            finally:
                await operator.execute("ALTER TABLE orders_of_later RENAME TO orders")

    @asynccontextmanager
    async def locked_table(self) -> AsyncIterator[None]:
        """Let an operator hold a lock on `orders`."""
        async with self._connected() as operator, operator.transaction():
            await operator.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            yield

    @asynccontextmanager
    async def objecting(self, code: str) -> AsyncIterator[None]:
        """Raise an error of this SQLSTATE for each new order."""
        async with self._connected() as operator:
            await operator.execute(OBJECTION.format(code=code))
            try:
                yield
            finally:
                await operator.execute("DROP FUNCTION object CASCADE")

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Answer nothing: the server and its sessions stand still."""
        with frozen(self._services.pid("postgresql")):
            yield

    @asynccontextmanager
    async def slow_for(self, sale_id: str) -> AsyncIterator[None]:
        """Take very long for each new order of one sale."""
        async with self._connected() as operator:
            await operator.execute(SLOWNESS.format(sale_id=sale_id))
            try:
                yield
            finally:
                await operator.execute("DROP FUNCTION slow CASCADE")
