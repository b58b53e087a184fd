"""Redis as a fail-over, a limit, a disk or an operator leaves it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ops.stack.services import Services
from seckill.adapters import redis as redis_client

#: Keys that take Redis so long to load, each: together longer than anything waits.
FILLERS, FILLER_US = 3_000, "20000"
#: Between two questions whether a state has come.
POLL_S = 0.05


class RedisStates:
    """Redis as a fail-over, a limit or an operator leaves it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._url = services.redis_url

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

    @asynccontextmanager
    async def other_password(self) -> AsyncIterator[None]:
        """Rotate the password, and end all other links."""
        async with self._operator() as redis:
            await redis.config_set("requirepass", "another")
            await redis.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
            try:
                yield
            finally:
                await redis.config_set("requirepass", urlsplit(self._url).password or "")

    @asynccontextmanager
    async def master_down(self) -> AsyncIterator[None]:
        """Be a replica that has lost its master, and says so to everyone."""
        async with self.configured(replica_serve_stale_data="no"), self.demoted():
            yield

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Run a script that does not end."""
        async with self.configured(lua_time_limit="50"), self._operator() as redis:
            running = asyncio.create_task(_run_for_ever(self._url))
            try:
                await _until_refused(redis, "BUSY")
                yield
            finally:
                await redis.script_kill()
                await running

    @asynccontextmanager
    async def cannot_save(self) -> AsyncIterator[None]:
        """Fail to write a snapshot, and refuse writes for that."""
        async with self._operator() as redis:
            folder = Path((await redis.config_get("dir"))["dir"])
            in_the_way = (
                folder / (await redis.config_get("dbfilename"))["dbfilename"] / "in the way"
            )
            in_the_way.mkdir(parents=True)
            try:
                async with self.configured(save="3600 1"):
                    await redis.bgsave()
                    await _until_refused(redis, "MISCONF")
                    yield
            finally:
                in_the_way.rmdir()
                in_the_way.parent.rmdir()

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Restart, and read its file for a long time."""
        child = self._services.stores["redis"].children[-1]
        spec = child.spec
        async with self._operator() as redis:
            names = [f"filler:{n}" for n in range(FILLERS)]
            await redis.mset({name: secrets.token_hex(50) for name in names})
            await redis.bgrewriteaof()
            await _until_rewritten(redis)
        await child.stop()
        slow = ("--key-load-delay", FILLER_US, "--loading-process-events-interval-bytes", "1024")
        child.spec = replace(spec, argv=[*spec.argv, *slow])
        starting = asyncio.create_task(child.start())
        async with self._operator() as redis:
            try:
                await _until_refused(redis, "LOADING")
                yield
            finally:
                await redis.config_set("key-load-delay", "0")
                await starting
                child.spec = spec
                await redis.unlink(*names)

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Answer nothing."""
        self._services.pause("redis")
        try:
            yield
        finally:
            self._services.resume("redis")


async def _run_for_ever(url: str) -> None:
    async with redis_client.connect(url, timeout_s=600) as redis:
        with suppress(ResponseError):  # it is killed
            await redis.eval("while true do end", 0)


async def _until_refused(redis: Redis, code: str) -> None:
    """Wait until Redis answers a write with this code."""
    while True:
        try:
            await redis.set("~state", "", px=1)
        except (ResponseError, BusyLoadingError) as error:
            if code in f"{error.status_code} {error}":
                return
        except RedisConnectionError:
            pass  # it is not up yet
        await asyncio.sleep(POLL_S)


async def _until_rewritten(redis: Redis) -> None:
    """Wait until Redis has written its file anew."""
    is_busy = True
    while is_busy:
        await asyncio.sleep(POLL_S)
        is_busy = (await redis.info("persistence"))["aof_rewrite_in_progress"]
