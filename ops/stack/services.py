"""The stores of one stack: given by the environment, or private ones started here.

async with running_services(home) as services:
    Redis.from_url(services.redis_url)
    await services.kill("redis")     # SIGKILL, as a crash would
    await services.start("redis")    # same port, same data
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.processes.child import Child
from ops.processes.pid_files import end_leftovers
from ops.processes.tasks import together
from ops.stack.credentials import load_credentials
from ops.stack.servers import greeting, postgresql, rabbitmq, redis
from ops.stack.servers.server import Server, StackHome
from ops.stack.settings import STORE_SETTINGS, given_settings

_PREPARE: dict[str, Callable[[StackHome], Awaitable[Server]]] = {
    "redis": redis.prepare,
    "rabbitmq": rabbitmq.prepare,
    "postgresql": postgresql.prepare,
}


@dataclass(frozen=True, slots=True)
class Services:
    """The stores by name: `redis`, `rabbitmq`, `postgresql`."""

    stores: dict[str, Server]

    @property
    def redis_url(self) -> str:
        """Redis, with its password."""
        return self.stores["redis"].url

    @property
    def amqp_url(self) -> str:
        """RabbitMQ, with user and password."""
        return self.stores["rabbitmq"].url

    @property
    def postgres_dsn(self) -> str:
        """PostgreSQL, with user, password and database."""
        return self.stores["postgresql"].url

    @property
    def urls(self) -> dict[str, str]:
        """Return the addresses of all stores, by their settings."""
        return {STORE_SETTINGS[name]: store.url for name, store in self.stores.items()}

    @property
    def children(self) -> list[Child]:
        """Every process that is ours: none of a store that the environment gave."""
        return [child for store in self.stores.values() for child in store.children]

    def pid(self, name: str) -> int | None:
        """Return the pid of a private store, or None while it does not run."""
        children = self.stores[name].children
        return children[-1].pid if children else None

    async def start(self, name: str) -> None:
        """Start a store that is down: same port, same data. Returns when it answers."""
        for child in self.stores[name].children:
            if child.pid is None:
                await child.start()

    async def stop(self, name: str) -> None:
        """Stop a store cleanly."""
        for child in reversed(self.stores[name].children):
            await child.stop()

    async def kill(self, name: str) -> None:
        """End a store by SIGKILL, as a crash would, and return when it is gone."""
        await self.stores[name].children[-1].kill()

    def pause(self, name: str) -> None:
        """Freeze a store: it accepts connections and answers nothing."""
        self.stores[name].children[-1].send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a frozen store go on."""
        self.stores[name].children[-1].send(signal.SIGCONT)


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Make a home for tests and demonstrations, and remove it with its data.

    Every user may enter it: PostgreSQL runs as another user when we are root. What is secret in it
    is closed file by file.
    """
    home = Path(tempfile.mkdtemp(prefix="seckill-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        shutil.rmtree(home)


@asynccontextmanager
async def running_services(
    home: Path, urls: Mapping[str, str] | None = None
) -> AsyncIterator[Services]:
    """Start what neither `urls` (by store) nor the environment gives, and stop it again."""
    end_leftovers(home / "run")
    place = StackHome(home, load_credentials(home))
    given = given_settings()
    given |= {STORE_SETTINGS[store]: url for store, url in (urls or {}).items()}
    services = Services({})
    try:
        await together(*(_bring_up(services, name, given, place) for name in _PREPARE))
        yield services
    finally:
        await together(*(services.stop(name) for name in services.stores))


async def _bring_up(services: Services, name: str, given: dict[str, Any], place: StackHome) -> None:
    if url := given.get(STORE_SETTINGS[name]):
        services.stores[name] = await greeting.greet(name, url)
    else:
        services.stores[name] = await _PREPARE[name](place)
        await services.start(name)
