"""Fulfilment, and its workers are killed in mid-step: what was done is undone, in reverse, once."""

from __future__ import annotations

import json
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import ClientSession

from seckill import messages
from seckill.adapters import topology
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.payments import fulfilment, wallets
from tests.processes import eventually


@pytest.fixture
async def publisher(settings):
    broker = Broker(settings.amqp_url, "test", 10)
    async with Publisher.open(broker, timeout_s=10) as publisher:
        yield publisher


@pytest.fixture
def held(db):
    """Keep rows or a table from all other connections inside the block."""

    @asynccontextmanager
    async def hold(statement, *args):
        async with db.acquire() as connection, connection.transaction():
            # Held for as long as the test takes, also on a slow machine.
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            await connection.execute(statement, *args)
            yield

    return hold


@pytest.fixture
async def broken_notice(db):
    """Notices of shipments fail; all other notices are written."""
    await db.execute(
        "CREATE FUNCTION refuse_shipping() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.kind = 'shipping' THEN RAISE EXCEPTION 'broken'; END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER refuse_shipping BEFORE INSERT ON notifications"
        " FOR EACH ROW EXECUTE FUNCTION refuse_shipping()"
    )
    yield
    await db.execute("DROP FUNCTION refuse_shipping() CASCADE")


class Workers:
    """Consumers, of which the one that works on a saga can be killed in mid-step."""

    def __init__(self, processes, db, publisher, order_id):
        self._processes = processes
        self._db = db
        self._publisher = publisher
        self._tx_id = fulfilment.tx_id_of(order_id)
        self._children = []

    async def start(self):
        process = await self._processes.run("consumers")
        self._children.append(process.child)

    async def kill_in(self, function):
        """Kill the worker that waits for a lock in a SQL function; deliver all messages again."""

        async def waiting():
            return await self._db.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND position($1 IN query) > 0)",
                function,
            )

        await eventually(waiting, f"a worker waits in {function}")
        row = await self._db.fetchrow(
            "SELECT owner, state, step FROM transactions WHERE tx_id = $1", self._tx_id
        )
        pid = int(row["owner"].partition("-")[0])
        (child,) = [child for child in self._children if child.pid == pid]
        os.kill(pid, signal.SIGKILL)
        await child.wait()
        await self.start()
        body = messages.encode_saga_step(
            fulfilment.FULFILMENT, self._tx_id, row["state"], row["step"]
        )
        for _ in range(3):
            await self._publisher.publish(topology.SAGA_STEPS, body)


async def test_F12_a_failing_third_step_is_undone_in_reverse_though_its_workers_are_killed(
    processes, open_sale, placed_order, pay, publisher, held, broken_notice, db, assert_balanced
):
    gateway = await processes.run("gateway")
    sale = await open_sale(stock=2)
    async with ClientSession(gateway.url) as http, AsyncExitStack() as notices:
        placing = await processes.run("consumers")
        order = await placed_order(http, sale)
        await placing.child.stop()
        workers = Workers(processes, db, publisher, order.order_id)
        for _ in range(2):
            await workers.start()
        of_order = "SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order.order_id
        assert (await pay(http, order))[0] == 200

        # When the worker of each of three steps is killed
        async with held(*of_order):
            await notices.enter_async_context(held("LOCK notifications IN SHARE MODE"))
            await workers.kill_in("allocate_shipments")
        await workers.kill_in("'shipping'")
        async with held(*of_order):
            await notices.aclose()
            await workers.kill_in("begin_refunds")

        # Then others go on
        tx_id = fulfilment.tx_id_of(order.order_id)

        async def ended():
            query = "SELECT ended_at FROM transactions WHERE tx_id = $1"
            return await db.fetchval(query, tx_id)

        await eventually(ended, "the saga ends", within_s=60)
    ledger = await assert_balanced(sale)
    assert (ledger.lines["available"], ledger.lines["refunded, cents"]) == (2, 1999)
    assert (await wallets.find_wallet(db, order.buyer_id)).available_cents == 1999
    query = "SELECT state FROM shipments WHERE order_id = $1"
    assert await db.fetchval(query, order.order_id) == "released"
    code, out, _ = await processes.ask("tx", "show", tx_id, "--json")
    shown = json.loads(out)
    assert (code, shown["state"]) == (0, "COMPENSATED")
    assert "broken" in shown["reason"]
    steps = shown["branches"]
    assert [(step["branch"], step["op"]) for step in steps] == [
        ("capture", "do"),
        ("allocate_shipment", "do"),
        ("notify", "do"),
        ("notify", "undo"),
        ("allocate_shipment", "undo"),
        ("capture", "undo"),
    ]
    times = [step["done_at"] or step["last_at"] for step in steps]
    assert times == sorted(times)
    assert all(step["attempts"] >= 1 for step in steps)
    assert [bool(step["done_at"]) for step in steps] == [True, True, False, True, True, True]


async def test_a_saga_whose_first_message_was_lost_is_begun_by_recover(
    processes, open_sale, placed_order, pay, db, assert_balanced
):
    """No consumer runs when the order is paid; the row in the log is all that is needed."""
    gateway = await processes.run("gateway")
    sale = await open_sale(stock=2)
    async with ClientSession(gateway.url) as http:
        consumers = await processes.run("consumers")
        order = await placed_order(http, sale)
        await consumers.child.stop()
        assert (await pay(http, order))[0] == 200
    query = "SELECT state FROM transactions WHERE tx_id = $1"
    tx_id = fulfilment.tx_id_of(order.order_id)
    assert await db.fetchval(query, tx_id) == "RUNNING"
    await processes.run("consumers")

    async def completed():
        return await db.fetchval(query, tx_id) == "COMPLETED"

    await eventually(completed, "the saga completes")
    await assert_balanced(sale)
