"""Stores that the environment gives: used as they are, once they have answered."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from ops.stack.servers.server import Server
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker

#: A store that is up answers at once; a person who typed a wrong address should not wait.
GREETING_S = 5.0


async def greet(name: str, url: str) -> Server:
    """Return the store; raise the error of its driver if it does not answer."""
    await _GREETINGS[name](url)
    parts = urlsplit(url)
    return Server(name, url, f"{parts.hostname}:{parts.port}", [])


async def _redis(url: str) -> None:
    client: Redis = redis_client.connect(url, timeout_s=GREETING_S)
    async with client:
        await client.ping()


async def _rabbitmq(url: str) -> None:
    async with Broker(url, "seckill-up", GREETING_S).channel():
        pass


async def _postgresql(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=GREETING_S)
    await connection.close()


_GREETINGS = {"redis": _redis, "rabbitmq": _rabbitmq, "postgresql": _postgresql}
