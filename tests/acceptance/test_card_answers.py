"""Paying by card over HTTP, with webhooks, against real processes."""

from __future__ import annotations

import time

import msgspec
import pytest
from aiohttp import ClientSession

from ops.processes.ports import free_port
from ops.sandbox_provider import Sandbox, SandboxBehaviour
from seckill.auth import webhook_signatures
from seckill.auth.key_ring import KeyRing
from seckill.orders.orders import Placement
from seckill.payments.provider import ChargeStatus
from tests.checkout import payer
from tests.processes import eventually


@pytest.fixture(scope="module")
def ring(settings):
    return KeyRing.parse(settings.webhook_keys.get_secret_value(), setting="test")


@pytest.fixture(scope="module")
async def sandbox(ring):
    sandbox = Sandbox(SandboxBehaviour(), keys=ring)
    async with sandbox.serving() as sandbox.url:
        yield sandbox


@pytest.fixture(scope="module")
async def gateway(processes, sandbox):
    """A gateway that takes cards."""
    process = await processes.run("gateway", port=free_port(), SECKILL_PROVIDER_URL=sandbox.url)
    sandbox.webhook_url = f"{process.url}/v1/webhooks/payments"
    return process


@pytest.fixture(scope="module", autouse=True)
async def consumers(processes, sandbox):
    return await processes.run("consumers", SECKILL_PROVIDER_URL=sandbox.url)


@pytest.fixture
def behaving(sandbox):
    """Let the provider behave badly for one test: `behaving(decline=1)`."""

    def behave(**faults):
        sandbox.behaviour = SandboxBehaviour(**faults)

    yield behave
    sandbox.behaviour = SandboxBehaviour()


@pytest.fixture
def placed(http, open_sale, order_for, db):
    """Make a sale and an order in it whose row is there: `sale, order = await placed()`."""

    async def make():
        sale = await open_sale(stock=1)
        order_id = await order_for(http, sale, name := payer())

        async def row():
            return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", order_id)

        await eventually(row, "the order is placed")
        return sale, Placement(order_id, sale.sale_id, name, 1, 1)

    return make


@pytest.fixture
def pay(http, login_for):
    """Pay by card; return (status, body)."""

    async def call(order):
        async with http.post(
            f"/v1/orders/{order.order_id}/payments",
            json={"method": "card"},
            headers=login_for(order.buyer_id),
        ) as response:
            return response.status, await response.json(content_type=None)

    return call


@pytest.fixture
def becomes(http, login_for):
    """Wait until an order is in a state."""

    async def call(order, status):
        async def so():
            path = f"/v1/orders/{order.order_id}"
            async with http.get(path, headers=login_for(order.buyer_id)) as response:
                return (await response.json())["status"] == status

        await eventually(so, f"the order is {status}")

    return call


@pytest.fixture
def send_webhook(http, ring):
    """Send a webhook; return the status and the problem's code."""

    async def call(key, *, keys=ring, at_s=None, **overrides):
        body = msgspec.json.encode({"key": key, "status": "authorised", **overrides})
        signature = webhook_signatures.sign(keys, body, now_s=at_s or int(time.time()))
        headers = {"Content-Type": "application/json", webhook_signatures.SIGNATURE: signature}
        async with http.post("/v1/webhooks/payments", data=body, headers=headers) as response:
            answer = await response.json(content_type=None) if response.status != 204 else {}
            return response.status, answer.get("code")

    return call


async def test_a_card_pays_an_order(placed, pay, becomes, assert_balanced):
    sale, order = await placed()
    status, body = await pay(order)
    assert (status, body["status"]) == (200, "paid")
    assert (await pay(order))[0] == 200
    assert (await assert_balanced(sale)).lines["charged, cents"] == 1999


async def test_a_declined_card_is_402_and_the_order_can_be_paid_again(
    placed, pay, becomes, behaving, assert_balanced
):
    sale, order = await placed()
    behaving(decline=1)
    status, body = await pay(order)
    assert (status, body["code"]) == (402, "declined")
    await becomes(order, "pending")
    behaving()
    assert (await pay(order))[0] == 200
    await assert_balanced(sale)


async def test_an_unknown_outcome_is_202_and_then_whatever_the_provider_says(
    placed, pay, becomes, behaving, assert_balanced
):
    sale, order = await placed()
    behaving(lose_replies=1)
    status, body = await pay(order)
    assert (status, body["status"], body["next_poll_ms"] > 0) == (202, "paying", True)
    status, body = await pay(order)
    assert (status, body["code"]) == (409, "payment_in_progress")
    behaving()
    await becomes(order, "paid")
    await assert_balanced(sale)


async def test_a_bank_that_takes_its_time_is_202_and_its_webhook_brings_the_news(
    placed, pay, becomes, behaving, db, assert_balanced
):
    sale, order = await placed()
    behaving(late=1, late_after_s=0.5)
    assert (await pay(order))[0] == 202
    # Nothing but a webhook makes anybody ask before the test is over
    await db.execute(
        "UPDATE payments SET next_ask_at = now() + interval '1 hour' WHERE order_id = $1",
        order.order_id,
    )
    await becomes(order, "paid")
    await assert_balanced(sale)


async def test_a_webhook_is_no_proof_of_a_payment(
    placed, pay, becomes, behaving, send_webhook, sandbox, db, assert_balanced
):
    sale, order = await placed()
    behaving(late=1, late_after_s=3600)
    assert (await pay(order))[0] == 202
    tx_id = await db.fetchval("SELECT paying_tx FROM orders WHERE order_id = $1", order.order_id)
    asks = await db.fetchval("SELECT asks FROM payments WHERE tx_id = $1", tx_id)
    assert await send_webhook(tx_id) == (204, None)

    async def asked():
        query = "SELECT asks > $2 AND said = 'pending' FROM payments WHERE tx_id = $1"
        return await db.fetchval(query, tx_id, asks)

    await eventually(asked, "the provider is asked")
    await becomes(order, "paying")
    sandbox.charges[tx_id].become(ChargeStatus.AUTHORISED)
    for _ in range(2):  # a repeat changes nothing
        assert await send_webhook(tx_id) == (204, None)
    await becomes(order, "paid")
    assert await send_webhook(tx_id) == (204, None)
    await assert_balanced(sale)


async def test_only_webhooks_of_the_provider_are_accepted(http, send_webhook):
    stranger = KeyRing.parse("k1:" + "s" * 32, setting="test")
    assert await send_webhook("pay-1", keys=stranger) == (401, "bad_signature")
    assert await send_webhook("pay-1", at_s=int(time.time()) - 301) == (401, "bad_signature")
    assert await send_webhook("pay-1") == (204, None)  # signed, and not ours
    assert await send_webhook("a b") == (422, "bad_request")
    async with http.post("/v1/webhooks/payments", json={"key": "pay-1", "status": "x"}) as response:
        assert response.status == 401


async def test_a_shop_without_a_provider_takes_no_cards(
    processes, placed, login_for, assert_balanced
):
    sale, order = await placed()
    cardless = await processes.run("gateway")
    async with (
        ClientSession(cardless.url) as http,
        http.post(
            f"/v1/orders/{order.order_id}/payments",
            json={"method": "card"},
            headers=login_for(order.buyer_id),
        ) as response,
    ):
        body = await response.json(content_type=None)
        assert (response.status, body["code"]) == (409, "no_cards")
    await assert_balanced(sale)
