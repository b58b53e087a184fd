"""The published contract holds: whatever schemathesis sends, the answer is one that it declares."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from config.settings import PROJECT_ROOT
from gateway.app import ROUTES
from gateway.http import docs, openapi
from gateway.http.requests import SALE_ID
from seckill.errors import WrongState
from seckill.payments import refunds, wallets
from seckill.sales import sales
from seckill.sales.terms import NewSale

CONFIG = Path(__file__).with_name("schemathesis.toml")


async def refund_all(db, sale):
    """Take paid orders back as soon as they are there, so that their buyer can buy again."""
    while True:
        paid = await db.fetch(
            "SELECT order_id::text FROM orders WHERE sale_id = $1 AND state = 'paid'", sale.sale_id
        )
        for (order_id,) in paid:
            with suppress(WrongState):  # it is still being booked
                await refunds.refund(db, order_id, actor="shop", reason="test")
        await asyncio.sleep(0.01)


async def test_schemathesis_finds_nothing_and_reaches_every_good_answer(
    gateway, consumers, db, stock, ticket_for, login_for, tmp_path, contract, checkout
):
    new = NewSale(SALE_ID.example, 2**31 - 1, price_cents=1, per_order_max=2**31 - 1)
    await sales.create(db, stock, new)
    sale = await sales.open_(db, stock, new.sale_id)
    await checkout.give("alice", wallets.CENTS_MAX)
    run = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("st"),
        *("--config-file", CONFIG),
        *("run", f"{gateway.url}/openapi.json"),
        *("--report", "har", "--report-har-path", "report.har"),
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT_ROOT),
            "TICKET": ticket_for(sale, "alice"),
            "LOGIN": login_for("alice")["Authorization"].removeprefix("Bearer "),
        },
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    refunding = asyncio.create_task(refund_all(db, sale))
    try:
        output, _ = await run.communicate()
    finally:
        refunding.cancel()
        if run.returncode is None:
            run.kill()
    assert run.returncode == 0, output.decode()

    report = json.loads((tmp_path / "report.har").read_bytes())
    reached = {
        (method, contract.template_of(urlsplit(entry["request"]["url"]).path), status)
        for entry in report["log"]["entries"]
        for method, status in [(entry["request"]["method"], entry["response"]["status"])]
    }
    assert contract.good_answers() - reached <= {
        # Schemathesis reads the contract itself once, before its report begins.
        ("GET", "/openapi.json", 200),
        # A copy is asked for only by who has one (test_sale_pages.py).
        ("GET", "/v1/sales", 304),
        ("GET", "/v1/sales/{sale_id}", 304),
        # Nothing follows only where the order has ended by then (test_events.py).
        ("GET", "/v1/orders/{order_id}/events", 204),
        # A payment is deferred only while others are before it (test_payments.py).
        ("POST", "/v1/orders/{order_id}/payments", 202),
        # Only the card provider can sign what it sends (test_card_answers.py).
        ("POST", "/v1/webhooks/payments", 204),
        # Only the shop's own server can sign what it sends (test_external_payments.py).
        ("POST", "/v1/orders/{order_id}/payments/external", 200),
        ("POST", "/v1/orders/{order_id}/payments/external/begin", 200),
        ("POST", "/v1/orders/{order_id}/payments/external/{reference}/refunded", 200),
        ("GET", "/v1/payments/external", 200),
    }


async def test_the_contract_is_served(http):
    async with http.get("/openapi.json") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.read() == openapi.build(ROUTES)


async def test_the_page_loads_from_this_gateway_alone(http):
    async with http.get("/docs") as response:
        page = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "http" not in page + policy
    for name, content_type in docs.ASSETS.items():
        assert f'"docs/{name}?v=' in page
        async with http.get(f"/docs/{name}") as response:
            assert (response.status, response.content_type) == (200, content_type)
            assert "immutable" in response.headers["Cache-Control"]
    async with http.get("/docs/README.md") as response:
        assert response.status == 404


async def test_a_client_may_wait_for_100_and_expect_other_things(http, open_sale, ticket_for):
    sale = await open_sale(stock=2)
    path, body = f"/v1/sales/{sale.sale_id}/grabs", {"quantity": 1}
    alice, bob = ({"Seckill-Ticket": ticket_for(sale, buyer)} for buyer in ("alice", "bob"))
    async with http.post(path, json=body, headers=alice, expect100=True) as response:
        assert response.status == 202
    async with http.post(path, json=body, headers=bob | {"Expect": "wonders"}) as response:
        assert response.status == 202
