"""A RabbitMQ of three nodes: the one that leads the queue of orders is killed in mid-sale."""

from __future__ import annotations

import json

import pytest
from aiohttp import ClientSession

from loadtest.drills.clusters.rabbitmq import running_nodes
from ops.buyers import PATIENCE, grab
from ops.stack.services import temporary_home
from tests.processes import Processes, eventually

#: For a start of three nodes, and of the killed one, on a busy machine.
START_S = 300


@pytest.fixture
async def cluster():
    with temporary_home() as home:
        async with running_nodes(home) as running:
            yield running


@pytest.mark.timeout(2 * START_S)
async def test_orders_are_placed_while_the_leading_node_is_gone(
    cluster, settings, tmp_path, db, open_sale, ticket_for, assert_balanced
):
    nodes, url = cluster
    sale = await open_sale(stock=50)
    async with Processes(settings, tmp_path, SECKILL_AMQP_URL=url) as processes:
        gateway = await processes.run("gateway")
        await processes.run("consumers")
        async with ClientSession(gateway.url, timeout=PATIENCE) as http:

            async def sell(first, end):
                for n in range(first, end):
                    answer = await grab(http, sale.sale_id, f"b{n}", ticket_for(sale, f"b{n}"))
                    assert answer.status == 202, answer

                async def placed():
                    query = "SELECT frozen FROM inventory WHERE sale_id = $1"
                    return await db.fetchval(query, sale.sale_id) == end

                await eventually(placed, f"{end} orders are placed", within_s=90)

            await sell(0, 20)
            queues = await queues_of(nodes)
            async with nodes.killed():
                await sell(20, 40)
            await sell(40, 50)
        await assert_balanced(sale)

    # Each queue lives on all nodes, and no node leads them all.
    assert {len(queue["members"]) for queue in queues} == {3}
    assert len({queue["leader"] for queue in queues}) > 1


async def queues_of(nodes):
    words = "list_queues", "--silent", "--formatter", "json", "name", "leader", "members"
    return json.loads(await nodes.control(nodes.brokers[0], *words))
