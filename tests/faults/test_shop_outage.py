"""The shop's own programs while PostgreSQL hangs."""

from __future__ import annotations

from aiohttp import ClientSession

from ops.processes.ports import free_port
from seckill.shop import tokens
from seckill.shop.tokens import Scope
from tests.processes import eventually


async def test_programs_hear_that_the_outcome_is_unknown_and_when_to_come_back(
    processes, postgres_proxy, db
):
    proxy, dsn = postgres_proxy
    port = free_port()
    await processes.run(
        "gateway",
        SECKILL_POSTGRES_DSN=dsn,
        SECKILL_SHOP_PORT=str(port),
        SECKILL_POSTGRES_TIMEOUT_S="1",
    )
    token = await tokens.create(db, "outage", [Scope.MONEY], by="test")
    path, key = "/shop/v1/buyers/outage/wallet/top-ups", {"Idempotency-Key": "outage"}
    body = {"amount_cents": 5, "reason": "gift"}
    headers = {"Authorization": f"Bearer {token}"}
    async with ClientSession(f"http://127.0.0.1:{port}", headers=headers) as http:

        async def top_up():
            async with http.post(path, json=body, headers=key) as response:
                found = await response.json(content_type=None)
                return response.status, response.headers.get("Retry-After"), found

        assert (await top_up())[0] == 200
        proxy.freeze()
        status, retry_after, problem = await top_up()
        assert (status, problem["code"]) == (503, "unavailable")
        assert int(retry_after) >= 1
        assert problem["type"] == "/problems/unavailable"
        proxy.thaw()

        async def is_back():
            return (await top_up())[0] == 200

        await eventually(is_back, "calls are answered again")
    assert await db.fetchval("SELECT available_cents FROM wallets WHERE buyer_id = 'outage'") == 5
