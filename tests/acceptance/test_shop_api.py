"""`/shop/v1` at a real gateway: every answer is held against the contract of its port."""

from __future__ import annotations

import csv
import io
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientSession

from seckill.shop import tokens
from seckill.shop.tokens import Scope
from tests.acceptance.admin_api import audited, bearer, call, refusal
from tests.integration.patience import eventually
from tests.integration.shop import Shop

_numbers = itertools.count()
NO_ORDER = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"


@pytest.fixture
def shop(db, store, stock):
    return Shop(db, store, stock)


@pytest.fixture
async def reader(session_of):
    return await session_of(Scope.ORDERS_READ)


async def test_a_call_needs_a_token_with_its_scope(session_of, shop_url, reader):
    async with ClientSession(shop_url) as stranger:
        assert await refusal(stranger, "GET", "/shop/v1/orders") == (401, "bad_shop_token")
        wrong = bearer(tokens.PREFIX + "0" * 48)
        assert await refusal(stranger, "GET", "/shop/v1/orders", headers=wrong) == (
            401,
            "bad_shop_token",
        )
    seller = await session_of(Scope.SALES)
    status, body = await call(seller, "GET", "/shop/v1/orders")
    assert (status, body["code"]) == (403, "missing_scope")
    assert "orders:read" in body["detail"]
    assert (await call(reader, "GET", "/shop/v1/orders"))[0] == 200


async def test_a_token_that_has_ended_is_told_so(session_of, db):
    reader = await session_of(Scope.ORDERS_READ)
    assert (await call(reader, "GET", "/shop/v1/orders"))[0] == 200
    await db.execute("UPDATE shop_tokens SET expires_at = now() WHERE name = $1", reader.token_name)

    async def is_refused():
        status, body = await call(reader, "GET", "/shop/v1/orders")
        return (status, body.get("code")) == (401, "shop_token_expired") and body

    body = await eventually(is_refused, "the token to end")
    assert f"token {reader.token_name} ended at 20" in body["detail"]


async def test_pages_are_stable_while_orders_come(reader, shop, open_sale):
    sale = await open_sale(stock=20)
    first = await shop.order(sale, *[f"b{n}" for n in range(5)])
    query = f"/shop/v1/orders?sale_id={sale.sale_id}&limit=2"
    _, page = await call(reader, "GET", query)
    seen = [page]
    await shop.order(sale, "late-1", "late-2")
    while page["next"]:
        _, page = await call(reader, "GET", f"{query}&cursor={page['next']}")
        seen.append(page)
    listed = [order["order_id"] for page in seen for order in page["orders"]]
    assert listed == sorted((p.order_id for p in first), reverse=True)


async def test_orders_are_found_by_buyer_state_and_time(reader, shop, open_sale):
    sale, other = await open_sale(stock=20), await open_sale(stock=20)
    buyer = f"buyer-of-{sale.sale_id}"
    (kept,), (there,) = await shop.order(sale, buyer), await shop.order(other, buyer)
    (ended,) = await shop.order(sale, "someone")
    await shop.release(ended)

    async def ids(query):
        status, page = await call(reader, "GET", f"/shop/v1/orders?{query}")
        assert status == 200
        return [order["order_id"] for order in page["orders"]]

    both = sorted([kept.order_id, there.order_id], reverse=True)
    assert await ids(f"buyer_id={buyer}") == both
    assert await ids(f"buyer_id={buyer}&limit=1") == both[:1]
    assert await ids(f"buyer_id={buyer}&cursor={both[0]}") == both[1:]
    assert await ids(f"buyer_id={buyer}&sale_id={sale.sale_id}") == [kept.order_id]
    assert await ids(f"sale_id={sale.sale_id}&status=cancelled") == [ended.order_id]
    hour = timedelta(hours=1)
    later = (datetime.now(UTC) + hour).isoformat().replace("+", "%2B")
    earlier = (datetime.now(UTC) - hour).isoformat().replace("+", "%2B")
    assert await ids(f"sale_id={sale.sale_id}&since={later}") == []
    assert await ids(f"sale_id={sale.sale_id}&until={earlier}") == []
    assert len(await ids(f"sale_id={sale.sale_id}&since={earlier}&until={later}")) == 2
    always = "since=0001-01-01T00:00:00%2B08:00&until=9999-12-31T23:59:59-08:00"
    assert len(await ids(f"sale_id={sale.sale_id}&{always}")) == 2


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("status=gone", "status"),
        ("cursor=2", "cursor"),
        ("since=2026-11-27", "since"),
        ("since=soon", "since"),
        ("buyer=alice", "buyer"),
        ("sale_id=a%20b", "sale_id"),
        ("buyer_id=%00", "buyer_id"),
    ],
)
async def test_a_filter_that_cannot_be_used_is_named(reader, query, field):
    status, body = await call(reader, "GET", f"/shop/v1/orders?{query}")
    assert (status, body["code"], body["field"]) == (422, "bad_request", field)


async def test_an_order_and_its_life_are_read_wherever_it_is(reader, shop, open_sale):
    sale = await open_sale()
    (queued,) = await shop.grab(sale, "alice")
    path = f"/shop/v1/orders/{queued.order_id}"
    assert await refusal(reader, "GET", path) == (409, "queued")
    assert (await call(reader, "GET", f"{path}/life"))[1]["status"] == "queued"
    await shop.place(queued)
    _, order = await call(reader, "GET", path)
    assert (order["status"], order["buyer_id"], order["amount_cents"]) == ("pending", "alice", 1999)
    _, life = await call(reader, "GET", f"{path}/life")
    assert [moment["what"].split(":")[0] for moment in life["moments"][:2]] == ["grabbed", "placed"]
    assert await refusal(reader, "GET", f"/shop/v1/orders/{NO_ORDER}") == (404, "not_found")
    assert await refusal(reader, "GET", "/shop/v1/orders/x/life") == (422, "bad_request")


async def test_the_contract_is_served_to_anybody(shop_url):
    async with ClientSession(shop_url) as http:
        _, document = await call(http, "GET", "/shop/openapi.json")
        assert document["info"]["title"] == "Seckill shop API"
        listing = document["paths"]["/shop/v1/orders"]["get"]
        assert listing["security"] == [{"shop_token": ["orders:read"]}]
        assert await refusal(http, "GET", "/v1/sales") == (404, "not_found")
        assert await refusal(http, "PUT", "/shop/v1/orders") == (405, "method_not_allowed")


async def wallet_of(http, buyer):
    return (await call(http, "GET", f"/shop/v1/buyers/{buyer}/wallet"))[1]["available_cents"]


async def test_money_is_put_in_once_for_each_key(session_of, db):
    cashier, buyer = await session_of(Scope.MONEY), f"rich-{next(_numbers)}"
    path, body = f"/shop/v1/buyers/{buyer}/wallet/top-ups", {"amount_cents": 500, "reason": "gift"}
    key = {"Idempotency-Key": f"top-up-{buyer}"}
    for replayed in (None, "true"):
        async with cashier.post(path, json=body, headers=key) as response:
            assert (response.status, (await response.json())["available_cents"]) == (200, 500)
            assert response.headers.get("Idempotent-Replayed") == replayed
    assert await wallet_of(cashier, buyer) == 500
    other = {"amount_cents": 501, "reason": "gift"}
    reused = await refusal(cashier, "POST", path, json=other, headers=key)
    assert reused == (422, "idempotency_key_reused")
    assert await refusal(cashier, "POST", path, json=body) == (400, "idempotency_key_needed")
    for wrong in (
        {"amount_cents": 0, "reason": "gift"},
        {"amount_cents": 5, "reason": " "},
        {"amount_cents": 5, "reason": "a\x00b"},
        {"amount_cents": 5, "reason": "two\nlines"},
        {"amount_cents": 5, "reason": "gift", "currency": "USD"},
    ):
        assert await refusal(cashier, "POST", path, json=wrong) == (422, "bad_request")
    assert await wallet_of(cashier, buyer) == 500
    ((_, reason, details),) = await audited(db, cashier, "wallet.top_up")
    assert reason == "gift"
    assert buyer in details


async def test_a_coupon_is_issued_under_a_new_id(session_of):
    cashier, buyer = await session_of(Scope.MONEY), f"thrifty-{next(_numbers)}"
    path = f"/shop/v1/buyers/{buyer}/coupons"
    body = {"coupon_id": f"c-{buyer}", "amount_cents": 100, "reason": "sorry"}
    status, coupon = await call(
        cashier, "POST", path, json=body, headers={"Idempotency-Key": "first"}
    )
    assert (status, coupon["status"]) == (200, "available")
    second = await refusal(cashier, "POST", path, json=body, headers={"Idempotency-Key": "second"})
    assert second == (409, "conflict")
    assert (await call(cashier, "GET", path))[1] == {"coupons": [coupon]}


async def test_an_unpaid_order_is_cancelled_on_record(session_of, shop, open_sale, db):
    clerk, sale = await session_of(Scope.ORDERS_WRITE), await open_sale()
    (order,) = await shop.order(sale, "alice")
    path, body = f"/shop/v1/orders/{order.order_id}/cancel", {"reason": "wrong address"}
    for key in ("a", "a", "b"):
        status, shown = await call(
            clerk, "POST", path, json=body, headers={"Idempotency-Key": f"{order.order_id}-{key}"}
        )
        assert (status, shown["status"], shown["reason"]) == (200, "cancelled", "wrong address")
    assert await shop.inventory(sale) == (10, 0, 0)
    assert len(await audited(db, clerk, "order.cancel")) == 1


async def test_a_paid_order_is_refunded_and_not_cancelled(
    session_of, shop, open_sale, checkout, db
):
    clerk, sale = await session_of(Scope.ORDERS_WRITE, Scope.MONEY), await open_sale()
    (order,) = await shop.order(sale, f"payer-of-{sale.sale_id}")
    await checkout.give(order.buyer_id, 1999)
    assert (await checkout.pay(order)).confirmed
    path = f"/shop/v1/orders/{order.order_id}"
    body, key = {"reason": "came back"}, {"Idempotency-Key": order.order_id}
    assert await refusal(clerk, "POST", f"{path}/cancel", json=body, headers=key) == (
        409,
        "not_cancellable",
    )
    part, part_key = {**body, "amount_cents": 500}, {"Idempotency-Key": f"{order.order_id}-part"}
    for _ in range(2):
        _, shown = await call(clerk, "POST", f"{path}/refunds", json=part, headers=part_key)
        assert (shown["status"], shown["order"]["status"]) == ("done", "paid")
        assert shown["order"]["refunded_cents"] == 500
    too_much = {**body, "amount_cents": 1500}
    refused = {"Idempotency-Key": f"{order.order_id}-too-much"}
    assert await refusal(clerk, "POST", f"{path}/refunds", json=too_much, headers=refused) == (
        422,
        "bad_request",
    )
    assert await wallet_of(clerk, order.buyer_id) == 500
    for _ in range(2):
        status, shown = await call(clerk, "POST", f"{path}/refunds", json=body, headers=key)
        assert (status, shown["status"], shown["order"]["status"]) == (200, "done", "refunded")
        assert shown["order"]["refunded_cents"] == shown["order"]["paid_cents"] == 1999
    other = {"Idempotency-Key": f"{order.order_id}-again"}
    again = await refusal(clerk, "POST", f"{path}/refunds", json=body, headers=other)
    assert again == (409, "conflict")
    assert await wallet_of(clerk, order.buyer_id) == 1999
    assert len(await audited(db, clerk, "order.refund")) == 1


async def test_a_sale_is_run_on_record(session_of, open_sale, db):
    seller, sale = await session_of(Scope.SALES), await open_sale(stock=5)
    path = f"/shop/v1/sales/{sale.sale_id}"
    assert (await call(seller, "POST", f"{path}/pause"))[1]["state"] == "paused"
    assert (await call(seller, "POST", f"{path}/resume"))[1]["state"] == "open"
    body = {"units": 3, "from_total": 5, "reason": "a box"}
    key = {"Idempotency-Key": sale.sale_id}
    for _ in range(2):
        status, shown = await call(seller, "POST", f"{path}/restock", json=body, headers=key)
        assert (status, shown["total"], shown["left"]) == (200, 8, 8)
    limits = {"try": {"rate": 7}}
    _, shown = await call(seller, "PUT", f"{path}/limits", json=limits)
    assert shown["limits"]["try"]["rate"] == 7
    assert (await call(seller, "GET", f"{path}/limits"))[1] == shown
    assert [row[1] for row in await audited(db, seller, "sale.state")] == [
        "open -> paused",
        "paused -> open",
    ]
    assert len(await audited(db, seller, "sale.restock")) == 1
    assert [row[1] for row in await audited(db, seller, "sale.limit")] == ["try: 7/s, burst 15"]
    assert await refusal(seller, "POST", "/shop/v1/sales/none/pause") == (404, "not_found")


async def test_sales_are_listed_page_by_page(session_of, open_sale):
    seller = await session_of(Scope.SALES)
    made = [await open_sale(opened=False), await open_sale(), await open_sale()]
    _, first = await call(seller, "GET", "/shop/v1/sales?limit=2")
    _, second = await call(seller, "GET", f"/shop/v1/sales?limit=1&cursor={first['next']}")
    listed = [sale["sale_id"] for sale in (*first["sales"], *second["sales"])]
    assert listed == [sale.sale_id for sale in reversed(made)]
    assert second["sales"][0]["was_opened"] is False
    assert (await call(seller, "GET", f"/shop/v1/sales/{listed[0]}"))[1] == first["sales"][0]


async def test_an_export_has_every_order_once(reader, shop, open_sale):
    sale = await open_sale(stock=1200)
    placed = await shop.order(sale, *(f"-b{n}" for n in range(1100)))
    async with reader.get(f"/shop/v1/sales/{sale.sale_id}/orders.csv") as response:
        assert response.status == 200
        assert response.content_type == "text/csv"
        assert "attachment" in response.headers["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(await response.text("utf-8"), newline="")))
    assert [row["order_id"] for row in rows] == sorted(each.order_id for each in placed)
    assert {row["buyer_id"][:3] for row in rows} == {"'-b"}
    async with reader.get("/shop/v1/sales/none/orders.csv") as response:
        assert response.status == 404
