"""States of stores that live and refuse, each entered and left again by a context manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from config.settings import Settings
from ops.stack.services import Services
from seckill.adapters import redis as redis_client

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

    def __init__(self, settings: Settings) -> None:
        self._url = settings.postgres_dsn
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
    async def slow_for(self, sale_id: str) -> AsyncIterator[None]:
        """Take very long for each new order of one sale."""
        async with self._connected() as operator:
            await operator.execute(SLOWNESS.format(sale_id=sale_id))
            try:
                yield
            finally:
                await operator.execute("DROP FUNCTION slow CASCADE")


class RedisStates:
    """Redis as a fail-over, a limit or an operator leaves it."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url

    @asynccontextmanager
    async def _operator(self) -> AsyncIterator[Redis]:
        client = redis_client.connect(self._url, timeout_s=10)
        try:
            yield client
        finally:
            await client.aclose()

    @asynccontextmanager
    async def demoted(self) -> AsyncIterator[None]:
        """Be a replica, of a node that does not answer."""
        async with self._operator() as redis:
            await redis.replicaof("127.0.0.1", "1")
            try:
                yield
            finally:
                await redis.replicaof("NO", "ONE")

    @asynccontextmanager
    async def configured(self, **values: str) -> AsyncIterator[None]:
        """Have these settings, with _ for -."""
        async with self._operator() as redis:
            names = [name.replace("_", "-") for name in values]
            before = {name: (await redis.config_get(name))[name] for name in names}
            for name, value in zip(names, values.values(), strict=True):
                await redis.config_set(name, value)
            try:
                yield
            finally:
                for name, value in before.items():
                    await redis.config_set(name, value)

    @asynccontextmanager
    async def without_right(self, command: str) -> AsyncIterator[None]:
        """Forbid a command to everyone."""
        async with self._operator() as redis:
            await redis.execute_command("ACL", "SETUSER", "default", f"-{command}")
            try:
                yield
            finally:
                await redis.execute_command("ACL", "SETUSER", "default", f"+{command}")


class RabbitStates:
    """RabbitMQ as an alarm or an operator leaves it."""

    def __init__(self, settings: Settings, services: Services) -> None:
        parts = urlsplit(settings.amqp_url)
        self._user, self._password = str(parts.username), str(parts.password)
        self._services = services

    async def _ctl(self, *words: str) -> None:
        children = self._services.stores["rabbitmq"].children
        if not children:
            pytest.skip("a broker that the environment gave cannot be reached by rabbitmqctl")
        spec = children[-1].spec
        process = await asyncio.create_subprocess_exec(
            Path(spec.argv[0]).with_name("rabbitmqctl"),
            *words,
            env=spec.env,
            cwd=spec.cwd,
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0

    @asynccontextmanager
    async def other_password(self) -> AsyncIterator[None]:
        """Rotate the user's password, and end its links."""
        await self._ctl("change_password", self._user, "another")
        try:
            await self._ctl("close_all_connections", "rotated")
            yield
        finally:
            await self._ctl("change_password", self._user, self._password)

    @asynccontextmanager
    async def without_vhost_rights(self) -> AsyncIterator[None]:
        """Take the user's rights, and end its links."""
        await self._ctl("clear_permissions", "-p", "/", self._user)
        try:
            await self._ctl("close_all_connections", "rights")
            yield
        finally:
            await self._ctl("set_permissions", "-p", "/", self._user, ".*", ".*", ".*")

    @asynccontextmanager
    async def alarmed(self) -> AsyncIterator[None]:
        """Block all publishers by a memory alarm."""
        await self._ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            yield
        finally:
            await self._ctl("set_vm_memory_high_watermark", "0.6")
