"""A sale in a real Redis for each test.

No `__init__.py` here: this directory would then be imported as the package `lua`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from tests.lua.shop import Shop


@pytest.fixture
def shop(redis: Redis) -> Shop:
    return Shop(redis)


@pytest.fixture
def make_shop(redis: Redis) -> Callable[[], Awaitable[Shop]]:
    """Return a maker of shops, each in an emptied database: for tests that run many examples."""

    async def make() -> Shop:
        await redis.flushdb()
        return Shop(redis)

    return make
