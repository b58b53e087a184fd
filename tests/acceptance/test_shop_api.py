"""`/shop/v1` at a real gateway: every answer is held against the contract of its port."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientSession, TraceConfig

from gateway.shop.app import ROUTES
from ops.processes.ports import free_port
from seckill.shop import tokens
from seckill.shop.tokens import Scope
from tests.acceptance.admin_api import bearer, call, refusal
from tests.contract import Contract
from tests.integration.shop import Shop

_numbers = itertools.count()
NO_ORDER = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"


@pytest.fixture(scope="module")
async def shop_url(processes):
    port = free_port()
    await processes.run("gateway", SECKILL_SHOP_PORT=str(port), SECKILL_SHOP_RATE_PER_S="1000")
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def shop_contract():
    return Contract(ROUTES)


@pytest.fixture
async def session_of(shop_url, shop_contract, db):
    """Make a session with a token of its own: `await session_of(Scope.MONEY)`."""
    sessions = []

    async def check(session, context, end):
        answer = end.response
        body = await answer.read() if answer.content_type.endswith("json") else b""
        shop_contract.check(end.method, end.url.raw_path, answer.status, answer.headers, body)

    async def make(*scopes):
        name = f"shop-api-{next(_numbers)}"
        token = await tokens.create(db, name, scopes, by="test")
        trace = TraceConfig()
        trace.on_request_end.append(check)
        made = ClientSession(shop_url, headers=bearer(token), trace_configs=[trace])
        made.token_name = name
        sessions.append(made)
        return made

    yield make
    for each in sessions:
        await each.close()


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
