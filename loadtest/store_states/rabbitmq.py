"""RabbitMQ as an alarm, a limit or an operator leaves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ops.stack.services import Services


class RabbitStates:
    """RabbitMQ as an alarm or an operator leaves it."""

    def __init__(self, services: Services) -> None:
        parts = urlsplit(services.amqp_url)
        self._user, self._password = str(parts.username), str(parts.password)
        self._services = services

    async def _ctl(self, *words: str) -> None:
        spec = self._services.stores["rabbitmq"].children[-1].spec
        process = await asyncio.create_subprocess_exec(
            Path(spec.argv[0]).with_name("rabbitmqctl"),
            *words,
            env=spec.env,
            cwd=spec.cwd,
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await process.wait():
            raise RuntimeError(f"rabbitmqctl {words[0]} failed")

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

    @asynccontextmanager
    async def disk_alarmed(self) -> AsyncIterator[None]:
        """Block all publishers by a disk alarm."""
        await self._ctl("set_disk_free_limit", "900000GB")
        try:
            yield
        finally:
            await self._ctl("set_disk_free_limit", "50MB")

    @asynccontextmanager
    async def no_connections(self) -> AsyncIterator[None]:
        """Let the user have no connection at all."""
        await self._ctl("set_user_limits", self._user, '{"max-connections": 0}')
        try:
            await self._ctl("close_all_connections", "limits")
            yield
        finally:
            await self._ctl("clear_user_limits", self._user, "max-connections")

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Answer nothing."""
        self._services.pause("rabbitmq")
        try:
            yield
        finally:
            self._services.resume("rabbitmq")
