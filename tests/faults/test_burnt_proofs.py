"""Redis is lost while a proof of work is burnt."""

from __future__ import annotations

from aiohttp import ClientSession

from seckill_client.proof_of_work import solve

BITS = 8


async def test_a_proof_is_not_taken_on_trust_while_redis_does_not_answer(
    processes, open_sale, login_for, redis_proxy
):
    proxy, url = redis_proxy
    gateway = await processes.run("gateway", SECKILL_REDIS_URL=url)
    sale = await open_sale(proof_bits=BITS)
    alice = login_for("alice")
    path = f"/v1/sales/{sale.sale_id}"
    async with ClientSession(gateway.url, headers=alice) as http:

        async def proof():
            async with http.post(f"{path}/challenges") as response:
                challenge = (await response.json())["challenge"]
            return {"challenge": challenge, "solution": solve(challenge, BITS)}

        async def ticket(sent):
            async with http.post(f"{path}/tickets", json=sent) as response:
                return response.status, (await response.json(content_type=None)).get("code")

        assert await ticket(await proof()) == (201, None)
        lost = await proof()
        proxy.lose_replies = True
        assert await ticket(lost) == (503, "unavailable")
        proxy.lose_replies = False
        # It was burnt, although no reply came: work may be lost, never used twice.
        assert await ticket(lost) == (409, "proof_used")
        assert await ticket(await proof()) == (201, None)
