"""What processes must not do: hold locks, open connections, write logs, make tables."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from aiohttp import ClientSession

from ops.buyers import grab
from seckill.adapters import postgres as database
from seckill.adapters import topology
from seckill.adapters.rabbitmq import Broker
from seckill.order_ids import new_order_id
from seckill.orders import orders
from seckill.orders.orders import Placement
from tests.processes import eventually


def placement(sale, buyer):
    return Placement(new_order_id(sale.number), sale.sale_id, buyer, 1, sale.epoch)


async def grab_all(url, sale, ticket_for, buyers):
    """Grab for each of them, and return the statuses."""
    async with ClientSession(url) as http:
        return [
            (await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))).status
            for buyer in buyers
        ]


async def test_F28_no_row_is_locked_across_a_round_trip(open_sale, db, postgres_proxy):
    """A client that never gets the reply of PostgreSQL holds up no other: the row is free again."""
    proxy, dsn = postgres_proxy
    sale = await open_sale(stock=10)
    first, lost, next_one = (placement(sale, buyer) for buyer in ("first", "lost", "next"))
    async with database.connect(dsn, size=1, timeout_s=30) as behind_proxy:
        assert await orders.place(behind_proxy, [first]) == []  # the statement is prepared
        proxy.lose_replies = True
        unanswered = asyncio.create_task(orders.place(behind_proxy, [lost]))

        async def committed():
            return (await orders.find_many(db, [lost.order_id]))[0]

        await eventually(committed, "the first one is committed")
        assert not unanswered.done()
        assert await orders.place(db, [next_one]) == []  # else: LockNotAvailable
        behind_proxy.terminate()
        with pytest.raises(asyncpg.PostgresConnectionError):
            await unanswered


async def test_F29_links_are_opened_once_and_not_with_each_message(
    processes, open_sale, ticket_for, settings, db, store, assert_balanced
):
    gateway, _ = await processes.run("gateway"), await processes.run("consumers")
    sale = await open_sale(stock=60)

    async def links():
        postgres = await db.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'seckill'"
        )
        redis = [(client["id"], client["name"]) for client in await store.client_list()]
        return {row[0] for row in postgres}, set(redis)

    async def ports_of_broker():
        async with Broker(settings.amqp_url, "test-looking", 15).channel() as channel:
            found = await channel.declare_queue(topology.ORDERS_PLACE, passive=True)
            return found.declaration_result.consumer_count

    assert set(await grab_all(gateway.url, sale, ticket_for, ["warm", "up"])) == {202}
    await assert_balanced(sale)
    before, consumers = await links(), await ports_of_broker()
    statuses = await grab_all(gateway.url, sale, ticket_for, [f"b{n}" for n in range(50)])
    await assert_balanced(sale)

    assert set(statuses) == {202}
    after = await links()
    pool = settings.postgres_pool_max
    assert len(after[0] - before[0]) <= 2 * pool  # the pools of two processes may fill up
    assert len(after[1]) <= len(before[1]) + 4  # calls under way at once, not fifty
    assert await ports_of_broker() == consumers


async def test_F30_nothing_is_logged_for_a_request_or_an_order(
    processes, open_sale, ticket_for, assert_balanced
):
    gateway, consumers = await processes.run("gateway"), await processes.run("consumers")
    sale = await open_sale(stock=20)
    assert set(await grab_all(gateway.url, sale, ticket_for, ["warm", "up"])) == {202}
    await assert_balanced(sale)
    logs = [process.child.spec.log for process in (gateway, consumers)]
    before = [log.read_text() for log in logs]

    statuses = await grab_all(gateway.url, sale, ticket_for, [f"b{n}" for n in range(30)])
    await assert_balanced(sale)

    assert set(statuses) == {202, 409}
    assert [log.read_text() for log in logs] == before


async def test_F31_no_worker_changes_the_schema(
    processes, open_sale, ticket_for, db, assert_balanced
):
    """Tables are made once, by `seckill up` or a deployment; workers start with what is there."""
    await db.execute("""
        CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'a worker ran %', tg_tag; END $$""")
    await db.execute("CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no_ddl()")
    try:
        with pytest.raises(Exception, match="a worker ran CREATE TABLE"):
            await db.execute("CREATE TABLE of_a_worker ()")
        gateway, _ = await processes.run("gateway"), await processes.run("consumers")
        sale = await open_sale(stock=2)
        assert await grab_all(gateway.url, sale, ticket_for, "abc") == [202, 202, 409]
        await assert_balanced(sale)
    finally:
        await db.execute("DROP EVENT TRIGGER no_ddl")
        await db.execute("DROP FUNCTION no_ddl")
