"""`next_poll_ms` under a crowd."""

from __future__ import annotations

import asyncio

from aiohttp import ClientSession

from tests.processes import eventually


async def test_a_crowd_polls_later_and_every_half_second_again_afterwards(
    processes, open_sale, ticket_for
):
    gateway = await processes.run("gateway", SECKILL_POLL_BUDGET_PER_S="20")
    sale = await open_sale(stock=100)
    async with ClientSession(gateway.url) as http:

        async def press(buyer):
            headers = {"Seckill-Ticket": ticket_for(sale, buyer)}
            path = f"/v1/sales/{sale.sale_id}/grabs"
            async with http.post(path, json={"quantity": 1}, headers=headers) as response:
                return (await response.json())["next_poll_ms"]

        assert await press("first") == 500
        polls_ms = await asyncio.gather(*(press(f"b{n}") for n in range(80)))
        assert max(polls_ms) > 2000, "80 buyers are spread over seconds, 20 in each"

        # No other buyer polls any more: one who polls at the given time finds the crowd gone.
        polls_ms = [max(polls_ms)]

        async def calm():
            await asyncio.sleep(polls_ms[-1] / 1000)
            polls_ms.append(await press(f"late{len(polls_ms)}"))
            return polls_ms[-1] == 500

        await eventually(calm, "a lone buyer polls after half a second again", within_s=60)
