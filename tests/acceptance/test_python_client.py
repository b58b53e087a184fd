"""The Python client buys at a real gateway."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from loadtest.proxy import Proxy
from ops.processes.ports import free_port
from ops.sandbox_provider import Sandbox, SandboxBehaviour
from seckill.auth.key_ring import KeyRing
from seckill.payments import wallets
from seckill.payments.wallets import Coupon, TopUp
from seckill_client.client import SeckillClient
from seckill_client.errors import RequestRefused
from tests.checkout import payer
from tests.processes import eventually

#: The states of an order that is paid and then refunded, in turn.
LIFE = ["queued", "pending", "paying", "paid", "refunding", "refunded"]


@pytest.fixture(scope="module")
async def sandbox(settings):
    keys = KeyRing.parse(settings.webhook_keys.get_secret_value(), setting="test")
    sandbox = Sandbox(SandboxBehaviour(), keys=keys)
    async with sandbox.serving() as sandbox.url:
        yield sandbox


@pytest.fixture(scope="module")
async def gateway(processes, sandbox):
    """A gateway that takes cards."""
    provider = {"SECKILL_PROVIDER_URL": sandbox.url}
    process = await processes.run("gateway", port=free_port(), **provider)
    sandbox.webhook_url = f"{process.url}/v1/webhooks/payments"
    await processes.run("consumers", **provider)
    return process


@pytest.fixture
async def client(gateway):
    async with SeckillClient(gateway.url) as client:
        yield client


@pytest.fixture
def buyer_of(login_for):
    """Make a buyer's client: `buyer_of(client, "alice")`."""

    def make(client, name):
        return client.buyer(login_for(name)["Authorization"].removeprefix("Bearer "))

    return make


async def test_a_buyer_comes_ahead_of_time_wins_and_pays(
    client, open_sale, buyer_of, db, assert_balanced
) -> None:
    sale = await open_sale(stock=1, proof_bits=8, opens_at=datetime.now(UTC) + timedelta(seconds=1))
    name = payer()
    await wallets.top_up(db, [TopUp(f"top-{name}", name, 1999 - 500)])
    await wallets.issue_coupons(db, [Coupon(f"c-{name}", name, 500)])
    alice = buyer_of(client, name)

    ticket = await alice.get_ticket(sale.sale_id)
    shown = await client.wait_for_opening(sale.sale_id, within_s=0)
    assert await alice.get_ticket(sale.sale_id) is ticket
    grabbed = await alice.grab(sale.sale_id)

    assert client.clock.now_s() >= shown.opens_at.timestamp()
    assert abs(client.clock.offset_s) < 30
    assert grabbed.status == "queued"
    assert (await alice.grab(sale.sale_id)).status == "yours"
    pending = await alice.wait_until(grabbed.order_id, "pending")
    assert pending.pay_by > datetime.now(UTC)
    paid = await alice.pay(grabbed.order_id, coupon=f"c-{name}")
    assert (paid.status, paid.amount_cents) == ("paid", 1999)
    assert (await alice.latest_order(sale.sale_id)).status == "paid"
    with pytest.raises(RequestRefused) as refused:
        await alice.cancel(grabbed.order_id)
    assert refused.value.code == "not_cancellable"
    with pytest.raises(RequestRefused) as refused:
        await buyer_of(client, "late").grab(sale.sale_id)
    assert refused.value.code == "sold_out"
    await assert_balanced(sale)


async def test_a_grab_whose_answer_is_lost_wins_one_order(
    gateway, open_sale, buyer_of, assert_balanced
) -> None:
    sale = await open_sale(stock=10)
    host, port = gateway.url.removeprefix("http://").split(":")
    async with (
        Proxy(host, int(port)) as proxy,
        SeckillClient(f"http://127.0.0.1:{proxy.port}", timeout_s=1) as client,
    ):
        alice = buyer_of(client, "alice")
        await alice.get_ticket(sale.sale_id)
        proxy.lose_replies = True
        grabbing = asyncio.create_task(alice.grab(sale.sale_id))

        async def won():
            return (await client_order(gateway, buyer_of, sale)) is not None

        await eventually(won, "the grab has won")
        proxy.lose_replies = False
        proxy.cut()
        grabbed = await grabbing
        cancelled = await alice.cancel(grabbed.order_id)

    assert grabbed.status == "yours"
    assert (cancelled.status, cancelled.reason) == ("cancelled", "buyer")
    await assert_balanced(sale)


async def client_order(gateway, buyer_of, sale):
    """Return the buyer's order, asked past the proxy; None while there is none."""
    async with SeckillClient(gateway.url) as direct:
        try:
            return await buyer_of(direct, "alice").latest_order(sale.sale_id)
        except RequestRefused:
            return None


async def test_a_watch_tells_each_state_of_a_card_payment_until_the_refund(
    client, open_sale, buyer_of, db
) -> None:
    sale = await open_sale(stock=2)
    await db.execute("INSERT INTO shipping_capacity VALUES ($1, 0)", sale.sale_id)
    alice = buyer_of(client, payer())
    order_id = (await alice.grab(sale.sale_id)).order_id
    seen = []

    async def watch():
        async for order in alice.watch(order_id):
            seen.append(order.status)

    watching = asyncio.create_task(watch())
    await alice.wait_until(order_id, "pending")
    paid = await alice.pay(order_id, "card")
    await asyncio.wait_for(watching, 60)

    assert paid.status in ("paid", "refunding", "refunded")
    assert seen[-1] == "refunded"
    assert seen == sorted(seen, key=LIFE.index)


async def test_a_declined_card_is_refused_and_the_order_can_be_paid_otherwise(
    client, open_sale, buyer_of, sandbox, db
) -> None:
    sale = await open_sale(stock=1)
    name = payer()
    bob = buyer_of(client, name)
    order_id = (await bob.grab(sale.sale_id)).order_id
    sandbox.behaviour = SandboxBehaviour(decline=1)
    try:
        with pytest.raises(RequestRefused) as refused:
            await bob.pay(order_id, "card")
    finally:
        sandbox.behaviour = SandboxBehaviour()
    assert (refused.value.code, refused.value.status) == ("declined", 402)
    with pytest.raises(RequestRefused) as refused:
        await bob.pay(order_id)
    assert refused.value.code == "insufficient_funds"
    await wallets.top_up(db, [TopUp(f"top-{name}", name, 1999)])
    assert (await bob.pay(order_id)).status == "paid"


async def test_sales_and_what_there_is_not(client, open_sale, buyer_of) -> None:
    sale = await open_sale()
    async for each in client.sales():
        if each.sale_id == sale.sale_id:
            break
    else:
        pytest.fail("the sale is not listed")
    with pytest.raises(RequestRefused) as refused:
        await client.sale("no-such-sale")
    assert refused.value.code == "not_found"
    stranger = client.buyer("not-a-token")
    with pytest.raises(RequestRefused) as refused:
        await stranger.get_ticket(sale.sale_id)
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")
    assert refused.value.request_id
