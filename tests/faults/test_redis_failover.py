"""Another node of Redis takes over behind one address, while links to the old node live on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError, RedisError

from loadtest.proxy import Proxy
from ops.processes.ports import free_port
from ops.stack.discovery import require
from seckill.adapters import redis as redis_client
from seckill.adapters.redis import CONNECTIONS_MAX
from tests.processes import eventually


@asynccontextmanager
async def node(folder: Path) -> AsyncIterator[int]:
    """Run a Redis of its own; gives its port."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(require("redis"), "--port", str(port), "--dir", str(folder), "--save", ""),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with Redis(port=port) as operator:

            async def answers():
                try:
                    return await operator.ping()
                except (OSError, RedisError):
                    return False

            await eventually(answers, "Redis is there")
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[int]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(node(tmp_path)) for _ in range(2)]


async def test_all_links_to_a_demoted_node_are_dropped_after_its_first_reply(nodes) -> None:
    old, new = nodes
    async with Proxy("127.0.0.1", old) as proxy, Redis(port=old) as operator:
        client = redis_client.connect(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=5)
        write = client.register_script("return redis.call('SET', KEYS[1], ARGV[1])")

        async def write_at_once() -> list[object]:
            """Use every link of the pool."""
            calls = [write(keys=[f"k{n}"], args=["v"]) for n in range(CONNECTIONS_MAX)]
            return await asyncio.gather(*calls, return_exceptions=True)

        assert set(await write_at_once()) == {b"OK"}
        await operator.replicaof("127.0.0.1", str(new))
        proxy.target = ("127.0.0.1", new)
        with pytest.raises(ReadOnlyError):
            await client.set("k", "v")
        assert set(await write_at_once()) == {b"OK"}
        async with Redis(port=new) as taken_over:
            assert await taken_over.dbsize() == CONNECTIONS_MAX
        await client.aclose()
