"""Paying by card through Stripe over HTTP: the bank's page, a decline, and webhooks."""

from __future__ import annotations

import time

import msgspec
import pytest
from aiohttp import ClientSession

from ops.processes.ports import free_port
from seckill.orders.orders import Placement
from seckill.payments.stripe_webhooks import SIGNATURE, sign
from seckill_client.client import SeckillClient
from tests.checkout import payer
from tests.localstripe import ASKS, DECLINED, KEY, SECRET, VISA, LocalStripe
from tests.processes import eventually

BACK = "http://127.0.0.1:9/back"


@pytest.fixture(scope="module")
async def stripe():
    async with LocalStripe.serving() as stripe:
        yield stripe


@pytest.fixture(scope="module")
def variables(stripe):
    return {
        "SECKILL_PROVIDER": "stripe",
        "SECKILL_STRIPE_URL": stripe.url,
        "SECKILL_STRIPE_KEY": KEY,
        "SECKILL_STRIPE_WEBHOOK_SECRET": SECRET,
    }


@pytest.fixture(scope="module")
async def gateway(processes, variables):
    return await processes.run("gateway", port=free_port(), **variables)


@pytest.fixture(scope="module", autouse=True)
async def consumers(processes, variables):
    return await processes.run("consumers", **variables)


@pytest.fixture
def placed(http, open_sale, order_for, db):
    async def make():
        sale = await open_sale(stock=1)
        order_id = await order_for(http, sale, name := payer())

        async def row():
            return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", order_id)

        await eventually(row, "the order is placed")
        return Placement(order_id, sale.sale_id, name, 1, 1)

    return make


@pytest.fixture
def call(http, login_for):
    """Pay with a card, or read the order; return (status, body)."""

    async def ask(order, card=None):
        path = f"/v1/orders/{order.order_id}"
        headers = login_for(order.buyer_id)
        if card is None:
            async with http.get(path, headers=headers) as response:
                return response.status, await response.json()
        body = {"method": "card", "payment_method": card, "return_url": BACK}
        async with http.post(f"{path}/payments", json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    return ask


async def books(stripe, order):
    return [
        (intent["status"], intent["amount"], intent["currency"])
        for intent in await stripe.intents()
        if intent["metadata"]["seckill_order"] == order.order_id
    ]


async def test_a_buyer_goes_to_the_bank_comes_back_and_has_paid(stripe, placed, call):
    order = await placed()
    card = await stripe.card(ASKS)

    async def asked():
        status, body = await call(order, card)
        return body["action"] if status == 202 and "action" in body else None

    # The call says where to go; so do a second one, and the order, to a buyer who closed the page
    action = await eventually(asked, "the bank asks")
    assert action["type"] == "redirect"
    assert await call(order, card) == await call(order, card)
    _, shown = await call(order)
    assert (shown["status"], shown["action"]) == ("paying", action)

    async with (
        ClientSession() as browser,
        browser.post(action["url"], data={"answer": "yes"}, allow_redirects=False) as response,
    ):
        assert (response.status, response.headers["Location"]) == (303, BACK)

    async def paid():
        return (await call(order))[1]["status"] == "paid"

    await eventually(paid, "the order is paid")
    assert "action" not in (await call(order))[1]

    async def captured():
        return await books(stripe, order) == [("succeeded", 1999, "eur")]

    await eventually(captured, "the money is captured")


async def test_a_declined_buyer_reads_why_and_pays_with_another_card(stripe, placed, call):
    order = await placed()
    declined = await stripe.card(DECLINED)

    async def refused():
        status, body = await call(order, declined)
        return body if status == 402 else None

    problem = await eventually(refused, "the card is declined")
    assert (problem["code"], problem["detail"]) == ("declined", "card_declined")

    async def paid():
        return (await call(order, VISA))[0] == 200

    await eventually(paid, "another card pays")


async def test_the_python_client_names_the_banks_page_and_hears_how_it_ends(
    gateway, stripe, open_sale, login_for
):
    sale = await open_sale(stock=1)
    login = login_for(payer())["Authorization"].removeprefix("Bearer ")
    async with SeckillClient(gateway.url) as client:
        buyer = client.buyer(login)
        order_id = (await buyer.grab(sale.sale_id)).order_id
        card = await stripe.card(ASKS)
        order = await buyer.pay(order_id, "card", payment_method=card, return_url=BACK)
        assert order.status == "paying"

        async with (
            ClientSession() as browser,
            browser.post(
                order.action_url, data={"answer": "yes"}, allow_redirects=False
            ) as response,
        ):
            assert response.status == 303
        assert (await buyer.wait_until(order_id, "paid")).status == "paid"


async def test_a_webhook_counts_with_stripes_signature_alone(http, placed):
    event = {"data": {"object": {"metadata": {"seckill_key": "card-none-0"}}}}
    body = msgspec.json.encode(event)
    good = sign(SECRET, body, now_s=int(time.time()))
    for signature, status in (
        ("", 401),
        (sign("other", body, now_s=int(time.time())), 401),
        (good, 204),
        (good, 204),
    ):
        headers = {SIGNATURE: signature, "Content-Type": "application/json"}
        async with http.post("/v1/webhooks/payments", data=body, headers=headers) as response:
            assert response.status == status
