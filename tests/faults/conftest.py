"""Processes that a test may kill, and stores that it may break: nothing here is shared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from config.settings import Settings
from tests.faults.proxy import Proxy
from tests.processes import Processes


@pytest.fixture
async def processes(settings: Settings, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(settings, tmp_path) as running:
        yield running


@pytest.fixture
async def amqp_proxy(settings: Settings) -> AsyncIterator[tuple[Proxy, str]]:
    async with _before(settings.amqp_url) as proxied:
        yield proxied


@pytest.fixture
async def redis_proxy(settings: Settings) -> AsyncIterator[tuple[Proxy, str]]:
    async with _before(settings.redis_url) as proxied:
        yield proxied


@pytest.fixture
async def postgres_proxy(settings: Settings) -> AsyncIterator[tuple[Proxy, str]]:
    async with _before(settings.postgres_dsn) as proxied:
        yield proxied


class _before:
    """Put a proxy before the server of a URL; gives the proxy and the URL through it."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._proxy = Proxy(self._parts.hostname or "", self._parts.port or 0)

    async def __aenter__(self) -> tuple[Proxy, str]:
        await self._proxy.__aenter__()
        login, _, _ = self._parts.netloc.rpartition("@")
        netloc = f"{login}@127.0.0.1:{self._proxy.port}"
        return self._proxy, urlunsplit(self._parts._replace(netloc=netloc))

    async def __aexit__(self, *_: object) -> None:
        await self._proxy.__aexit__()
