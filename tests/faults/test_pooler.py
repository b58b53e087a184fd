"""A sale whose processes all reach PostgreSQL through PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientError, ClientSession

from ops.buyers import PATIENCE, flash_crowd
from seckill.orders.orders import Placement
from tests import pgbouncer
from tests.checkout import payer
from tests.processes import Processes, eventually

OPEN_PAYMENTS = (
    "SELECT count(*) FROM transactions WHERE ended_at IS NULL AND args ->> 'sale_id' = $1"
)


@pytest.fixture
async def processes(pgbouncer_here, services, settings, tmp_path):
    async with (
        pgbouncer.in_front(services.postgres_dsn) as dsn,
        Processes(settings, tmp_path, SECKILL_POSTGRES_DSN=dsn) as running,
    ):
        yield running


async def test_orders_are_placed_paid_expired_and_recovered_through_a_pooler(
    processes, open_sale, ticket_for, pay, checkout, db, assert_balanced
):
    """Ten units: six buyers pay at a gateway that is killed meanwhile, four do not pay."""
    gateway = await processes.run("gateway")
    await processes.run("consumers")
    sale = await open_sale(stock=10, payment_window_s=10)
    tickets = {name: ticket_for(sale, name) for name in (payer() for _ in range(20))}
    answers = await flash_crowd(gateway.url, sale.sale_id, tickets, connections=20, presses=1)
    won = [
        Placement(answer.order_id, sale.sale_id, answer.buyer_id, 1, 1)
        for answer in answers
        if answer.status == 202
    ]
    assert len(won) == 10

    async def placed():
        query = "SELECT count(*) FROM orders WHERE sale_id = $1 AND state = 'pending'"
        return await db.fetchval(query, sale.sale_id) == 10

    await eventually(placed, "every order has its row")
    for order in won:
        await checkout.give(order.buyer_id, 1999)
    async with ClientSession(gateway.url, timeout=PATIENCE) as http:
        assert (await pay(http, won[0]))[0] == 200
        paying = [asyncio.create_task(pay(http, order)) for order in won[1:6]]

        async def begun():
            return await db.fetchval(OPEN_PAYMENTS, sale.sale_id) or all(t.done() for t in paying)

        await eventually(begun, "a payment has begun")
        await gateway.child.kill()
        for reply in await asyncio.gather(*paying, return_exceptions=True):
            assert isinstance(reply, tuple | ClientError), reply

    # As if the lease of the dead process had run out.
    await db.execute(
        "UPDATE transactions SET due_at = now() WHERE ended_at IS NULL AND args ->> 'sale_id' = $1",
        sale.sale_id,
    )

    async def ended():
        rows = await db.fetch(
            "SELECT state, count(*) FROM orders WHERE sale_id = $1 GROUP BY state", sale.sale_id
        )
        states = dict(rows)
        return states if states.keys() <= {"paid", "cancelled"} else None

    states = await eventually(ended, "every order is paid or cancelled", within_s=40)
    assert states["paid"] >= 1
    assert states["cancelled"] >= 4
    ledger = await assert_balanced(sale)
    assert ledger.lines["charged, cents"] == 1999 * states["paid"]
    for log in (processes.home / "logs").iterdir():
        assert "Traceback" not in log.read_text(), log.name
