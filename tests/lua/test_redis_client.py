"""The client's promises: one attempt a call, a bounded pool, and nothing left open."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from shop import Shop

from seckill import redis_client
from seckill.redis_client import CONNECTIONS_MAX
from tests.processes import eventually


def url_of(redis: Redis, *, name: str) -> str:
    of = redis.connection_pool.connection_kwargs
    password = f":{of['password']}@" if of.get("password") else ""
    return f"redis://{password}{of['host']}:{of['port']}/{of['db']}?client_name={name}"


async def open_links(redis: Redis, name: str) -> int:
    return sum(link["name"] == name for link in await redis.client_list())


async def test_F27_a_closed_client_leaves_no_connection(redis: Redis) -> None:
    client = redis_client.connect(url_of(redis, name="closing"), timeout_s=2)
    await asyncio.gather(*[client.ping() for _ in range(3)])
    assert await open_links(redis, "closing") == 3
    await client.aclose()

    async def none_is_left() -> bool:
        return await open_links(redis, "closing") == 0

    await eventually(none_is_left, "Redis has seen them go")


async def test_F27_more_calls_than_connections_wait_for_one(redis: Redis) -> None:
    client = redis_client.connect(url_of(redis, name="crowd"), timeout_s=5)
    await asyncio.gather(*[client.ping() for _ in range(CONNECTIONS_MAX * 5)])
    links = await open_links(redis, "crowd")
    await client.connection_pool.disconnect()
    assert links == CONNECTIONS_MAX


async def test_a_call_whose_link_breaks_is_not_sent_again(
    redis: Redis, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's default is ten more attempts; a grab whose reply was lost has been run."""
    client = redis_client.connect(url_of(redis, name="once"), timeout_s=2)
    await client.ping()
    pool = client.connection_pool
    link = await pool.get_connection()
    sent = []

    async def lose_the_reply(*_: object, **__: object) -> object:
        sent.append("command")
        raise RedisConnectionError("link broke")

    monkeypatch.setattr(type(link), "read_response", lose_the_reply)
    await pool.release(link)
    with pytest.raises(RedisConnectionError):
        await client.incr("counter")
    monkeypatch.undo()
    await pool.disconnect()
    assert sent == ["command"]
