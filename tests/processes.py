"""Real gateway and consumer processes for tests."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.settings import PROJECT_ROOT, Settings
from ops.processes.child import Child
from ops.processes.ports import free_port
from ops.processes.workers import worker


@dataclass(frozen=True, slots=True)
class Process:
    """A gateway or consumer process; `url` is the gateway's."""

    child: Child
    url: str
    admin_url: str


class Processes:
    """Starts processes on the session's services, and ends them all."""

    def __init__(self, settings: Settings, home: Path, **defaults: str) -> None:
        self._settings = settings
        self.home = home
        #: Settings of all of them, unless they have others of their own.
        self._defaults = defaults
        self._children: list[Child] = []

    async def __aenter__(self) -> Processes:
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self._children:
            await child.stop()

    async def run(self, command: str, *, port: int | None = None, **overrides: str) -> Process:
        """Start `seckill <command>`, with settings of its own such as SECKILL_AMQP_URL."""
        gateway_port, admin_port = port or free_port(), free_port()
        environment = {
            **self.environment,
            "SECKILL_GATEWAY_PORT": str(gateway_port),
            "SECKILL_ADMIN_PORT": str(admin_port),
            **overrides,
        }
        child = worker(command, len(self._children) + 1, environment, home=self.home)
        self._children.append(child)
        await child.start()
        host = "http://127.0.0.1"
        return Process(child, f"{host}:{gateway_port}", f"{host}:{admin_port}")

    async def ask(self, *words: object, **overrides: str) -> tuple[int | None, str, str]:
        """Run `seckill <words>` to its end; return its exit code, output and complaints."""
        process = await self.begin(*words, **overrides)
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def begin(self, *words: object, **overrides: str) -> asyncio.subprocess.Process:
        """Begin `seckill <words>`, whose output the caller reads, and which the caller ends."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ops.cli", *map(str, words)),
            cwd=PROJECT_ROOT,
            env={**os.environ, **self.environment, **overrides},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,  # an event of a thousand orders is one line
        )

    @property
    def environment(self) -> dict[str, str]:
        """The settings that each process gets, unless it has others of its own."""
        settings = self._settings
        return {
            "SECKILL_HOME": str(self.home),  # no settings file there: all comes from here
            "SECKILL_REDIS_URL": settings.redis_url,
            "SECKILL_AMQP_URL": settings.amqp_url,
            "SECKILL_POSTGRES_DSN": settings.postgres_dsn,
            "SECKILL_TICKET_KEYS": settings.ticket_keys.get_secret_value(),
            "SECKILL_JWT_KEYS": settings.jwt_keys.get_secret_value(),
            "SECKILL_WEBHOOK_KEYS": settings.webhook_keys.get_secret_value(),
            "SECKILL_SHOP_KEYS": settings.shop_keys.get_secret_value(),
            "SECKILL_ADMIN_TOKEN": settings.admin_token.get_secret_value(),
            "SECKILL_STOP_DELAY_S": "0",  # no balancer looks
            "SECKILL_LOG_FORMAT": "text",  # tests look for words in it
            **self._defaults,
        }


def limits_profile(home: Path, **limits: str) -> dict[str, str]:
    """Write a profile of rate limits, `buyer="rate = 1"`, and return the settings that pick it.

    An operation that is not named is not limited.
    """
    free = dict.fromkeys(("try", "confirm", "cancel"), 'rate = 1\nmode = "off"')
    tables = [f"[test.{name}]\n{text}\n" for name, text in {**free, **limits}.items()]
    file = home / f"limits-{secrets.token_hex(4)}.toml"
    file.write_text("\n".join(tables))
    return {"SECKILL_LIMITS_FILE": str(file), "SECKILL_LIMITS_PROFILE": "test"}


async def eventually(
    condition: Callable[[], Awaitable[object]], what: str, *, within_s: float = 20
) -> Any:
    """Poll until the condition returns something true, and return that."""
    deadline = time.monotonic() + within_s
    while not (result := await condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)
    return result
