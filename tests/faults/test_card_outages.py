"""A gateway dies, or the provider does, in the middle of a card payment."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import ClientError, ClientSession

from ops.buyers import grab
from ops.processes.ports import free_port
from ops.sandbox_provider import Sandbox, SandboxBehaviour
from tests.checkout import payer
from tests.processes import eventually


async def test_F09_killed_between_try_and_reply_the_payment_is_found_and_paid_once(
    processes, open_sale, ticket_for, login_for, db, assert_balanced
):
    # Given a gateway that waits for a provider who has charged the card and does not answer
    sandbox = Sandbox(SandboxBehaviour(delay_s=3600))
    async with sandbox.serving() as url:
        provider = {"SECKILL_PROVIDER_URL": url, "SECKILL_PROVIDER_TIMEOUT_S": "2"}
        doomed = await processes.run("gateway", **provider)
        await processes.run("consumers", **provider)
        sale = await open_sale(stock=1)
        async with ClientSession(doomed.url) as http:
            order_id = await _placed(http, db, sale, ticket_for)
            paying = asyncio.create_task(_pay(http, order_id, login_for))
            await eventually(_all_charged(sandbox), "the card is charged")
            # When it is killed
            doomed.child.send(signal.SIGKILL)
            await paying
        sandbox.behaviour.delay_s = 0
        # Then another process finds the charge, and there is no second one
        ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders paid"] == 1
    assert [charge.history for charge in sandbox.charges.values()] == [["authorised", "captured"]]


async def test_while_the_provider_is_unavailable_the_order_is_paying_and_then_it_is_paid(
    processes, open_sale, ticket_for, login_for, db, assert_balanced
):
    sandbox, port = Sandbox(SandboxBehaviour()), free_port()
    provider = {"SECKILL_PROVIDER_URL": f"http://127.0.0.1:{port}"}
    gateway = await processes.run("gateway", **provider)
    consumers = await processes.run("consumers", **provider)
    sale = await open_sale(stock=1)
    async with ClientSession(gateway.url) as http:
        order_id = await _placed(http, db, sale, ticket_for)
        assert await _pay(http, order_id, login_for) == 202

        async def asked():
            return await db.fetchval("SELECT asks FROM payments WHERE order_id = $1", order_id)

        await eventually(asked, "the provider is asked in vain")
        state = await db.fetchval("SELECT state FROM orders WHERE order_id = $1", order_id)
        assert (state, consumers.child.pid is not None) == ("paying", True)
        async with sandbox.serving(port=port):
            ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders paid"] == 1
    assert [charge.history for charge in sandbox.charges.values()] == [["authorised", "captured"]]


_buyer = payer()


async def _placed(http, db, sale, ticket_for):
    answer = await grab(http, sale.sale_id, _buyer, ticket_for(sale, _buyer))
    assert answer.status == 202

    async def row():
        return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", answer.order_id)

    await eventually(row, "the order is placed")
    return answer.order_id


async def _pay(http, order_id, login_for):
    try:
        async with http.post(
            f"/v1/orders/{order_id}/payments", json={"method": "card"}, headers=login_for(_buyer)
        ) as response:
            return response.status
    except ClientError:
        return 0


def _all_charged(sandbox):
    async def check():
        return sandbox.charges

    return check
