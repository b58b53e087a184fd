"""Gateways on two hosts and a consumer on a third: one host is cut off in mid-sale."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession

from loadtest.drills.network import lacking, running_network
from ops.buyers import PATIENCE, grab
from tests.processes import Processes, eventually


@pytest.fixture
async def network(settings, tmp_path):
    if reason := await lacking():
        pytest.skip(reason)
    environment = Processes(settings, tmp_path).environment
    async with running_network(tmp_path, environment, "east", "west", "works") as network:
        started = (
            network.run("east", "gateway"),
            network.run("west", "gateway"),
            network.run("works", "consumers"),
        )
        await asyncio.gather(*started)
        yield network


@pytest.mark.timeout(300)
async def test_the_other_gateway_sells_on_while_one_host_is_cut_off(
    network, db, open_sale, ticket_for, assert_balanced
):
    sale = await open_sale(stock=30)

    async def press(host, first, end):
        async with ClientSession(network.url(host), timeout=PATIENCE) as http:
            presses = (
                grab(http, sale.sale_id, f"b{n}", ticket_for(sale, f"b{n}"))
                for n in range(first, end)
            )
            return {answer.status for answer in await asyncio.gather(*presses)}

    assert await press("east", 0, 10) == {202}
    async with network.cut_off("east"):
        assert await press("west", 10, 20) == {202}
    async with network.cut_off("works"):
        assert await press("west", 20, 30) == {202}

    async def again():
        """East takes new connections, and answers its winners."""
        return await press("east", 0, 10) == {200}

    await eventually(again, "the first host is back", within_s=60)
    for host in ("east", "west"):
        assert await press(host, 30, 40) == {409}

    async def placed():
        query = "SELECT frozen FROM inventory WHERE sale_id = $1"
        return await db.fetchval(query, sale.sale_id) == 30

    await eventually(placed, "all orders are placed", within_s=90)
    await assert_balanced(sale)
