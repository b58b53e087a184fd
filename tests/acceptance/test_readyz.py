"""`/readyz` and the admin API of a gateway whose Redis could lose what it has promised."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from ops.stack.credentials import load_credentials
from ops.stack.servers import redis as redis_store
from ops.stack.servers.server import StackHome
from ops.stack.services import Services, temporary_home
from seckill.adapters import redis as redis_client
from tests.processes import eventually


@pytest.fixture
async def own_redis() -> AsyncIterator[tuple[Redis, str]]:
    with temporary_home() as home:
        store = await redis_store.prepare(StackHome(home, load_credentials(home)))
        services = Services({"redis": store})
        await services.start("redis")
        async with redis_client.connect(services.redis_url, timeout_s=5) as client:
            yield client, services.redis_url
        await services.stop("redis")


async def ready(admin: ClientSession):
    async with admin.get("/readyz") as response:
        return response.status, await response.json()


async def test_a_gateway_is_not_ready_until_its_redis_is_set_right(processes, settings, own_redis):
    redis, url = own_redis
    await redis.config_set("appendfsync", "everysec")
    gateway = await processes.run("gateway", SECKILL_REDIS_URL=url)
    headers = {"Authorization": f"Bearer {settings.admin_token.get_secret_value()}"}
    async with ClientSession(gateway.admin_url, headers=headers) as admin:
        status, report = await ready(admin)
        assert (status, report["status"], report["checks"]["redis"]) == (503, "unready", True)
        (line,) = report["problems"]
        assert "CONFIG SET appendfsync" in line

        new = {"sale_id": "not-ready", "stock": 1, "price_cents": 1}
        async with admin.post("/admin/sales", json=new) as response:
            assert response.status == 201
        async with admin.post("/admin/sales/not-ready/open") as response:
            refused = await response.json(content_type=None)
            assert (response.status, refused["code"]) == (503, "not_ready")
            assert line in refused["detail"]

        await redis.config_set("appendfsync", "always")

        async def is_ready():
            status, report = await ready(admin)
            return status == 200 and report["status"] == "ready"

        await eventually(is_ready, "ready without a restart", within_s=60)
        async with admin.post("/admin/sales/not-ready/open") as response:
            assert response.status == 200


async def test_a_shop_that_accepts_the_risk_is_only_warned(processes, own_redis):
    redis, url = own_redis
    await redis.config_set("appendonly", "no")
    gateway = await processes.run("gateway", SECKILL_REDIS_URL=url, SECKILL_PREFLIGHT="warn")
    async with ClientSession(gateway.admin_url) as admin:
        status, report = await ready(admin)
    assert (status, report["status"]) == (200, "degraded")
    assert "appendonly" in report["problems"][0]
    assert "Redis has appendonly no" in gateway.child.spec.log.read_text()
