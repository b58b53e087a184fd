"""The registry: who reports is there, who is gone is forgotten, and no process is harmed."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from config.settings import Settings
from ops.processes.ports import free_port
from seckill.adapters import redis as redis_client
from seckill.adapters import redis_keys
from seckill.registry import heartbeat, processes
from seckill.registry.heartbeat import Self, reporting
from seckill.registry.processes import TTL_S, Reason
from tests.processes import eventually


@pytest.fixture
def own(settings: Settings) -> Self:
    return Self("gateway", settings)


async def test_a_process_is_there_while_it_reports_and_gone_when_it_stops(redis, own):
    own.known.reasons = {"rabbitmq": Reason("RabbitMQ does not answer", 2.0)}
    async with reporting(redis, own.now):
        (found,) = await eventually(lambda: processes.read(redis), "the report")
        assert (found.process_id, found.kind) == (own.known.process_id, "gateway")
        assert found.reasons["rabbitmq"].words == "RabbitMQ does not answer"
        assert found.memory_bytes > 2**20
        assert 0 < await redis.pttl(redis_keys.processes()) <= TTL_S * 1000
    assert await processes.read(redis) == []


async def test_one_that_was_killed_is_forgotten_by_the_others(redis, own):
    dead = msgspec.structs.replace(own.now(), process_id="killed", at=0.0)
    await processes.report(redis, dead, keep=False)

    async def only_own() -> bool:
        return [each.process_id for each in await processes.read(redis)] == [own.known.process_id]

    async with reporting(redis, own.now):
        await eventually(only_own, "the other is forgotten")


async def test_what_another_version_wrote_is_left_out(redis, own):
    await redis.hset(redis_keys.processes(), "newer", b'{"form": 2}')
    await redis.hset(redis_keys.processes(), "damaged", b"\xff")
    await processes.report(redis, own.now(), keep=True)
    assert [each.process_id for each in await processes.read(redis)] == [own.known.process_id]


@pytest.mark.parametrize("kind", ["absent", "wrong type"])
async def test_a_bad_redis_harms_nobody_and_reports_come_when_it_is_well(
    redis, own, kind, monkeypatch
):
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)
    if kind == "absent":
        url = f"redis://127.0.0.1:{free_port()}/0"
        client = redis_client.connect(url, timeout_s=0.2)
        async with reporting(client, own.now):
            await asyncio.sleep(0)
        await client.aclose()
        return
    await redis.set(redis_keys.processes(), "not a hash")
    async with reporting(redis, own.now):
        await asyncio.sleep(0)
        await redis.unlink(redis_keys.processes())
        await eventually(lambda: processes.read(redis), "a report after all")
