"""CORS: a browser lets the pages of configured origins read answers, and no others."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession

from seckill.adapters import redis_keys
from tests.processes import Process, Processes

SHOP = "https://shop.example"
OTHER = "https://evil.example"
EXPOSED = "Retry-After, RateLimit, RateLimit-Policy, ETag, Request-Id"


@pytest.fixture(scope="module")
async def shop(processes: Processes) -> Process:
    """A gateway that lets in the pages of a shop."""
    return await processes.run("gateway", SECKILL_CORS_ORIGINS=f"http://localhost:3000,{SHOP}")


@pytest.fixture
async def http(shop: Process):
    async with ClientSession(shop.url) as session:
        yield session


def asking(method: str, origin: str = SHOP) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type,seckill-ticket",
    }


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/sales/demo/grabs", "POST"),
        ("/v1/sales", "GET, HEAD"),
        ("/v1/orders/00000000-0000-8000-8000-000000000000", "GET, HEAD, DELETE"),
    ],
)
async def test_a_preflight_answers_what_a_path_takes(http, path, methods):
    async with http.options(path, headers=asking("POST")) as response:
        assert (response.status, await response.read()) == (204, b"")
        got = response.headers
        assert got["Access-Control-Allow-Origin"] == SHOP
        assert got["Access-Control-Allow-Methods"] == methods
        assert got["Access-Control-Max-Age"] == "7200"
        assert got["Vary"] == "Origin"
        allowed = got["Access-Control-Allow-Headers"].lower().split(", ")
        assert allowed == [
            "content-type",
            "authorization",
            "seckill-ticket",
            "last-event-id",
            "if-none-match",
        ]
        assert "Access-Control-Allow-Credentials" not in got


async def test_answers_and_refusals_can_be_read_by_the_shop(http, open_sale, ticket_for, store):
    sale = await open_sale(stock=1)
    grabs = f"/v1/sales/{sale.sale_id}/grabs"
    lost = await open_sale()
    await store.delete(redis_keys.sale(lost.sale_id))  # Redis has forgotten it: 503
    seen = []
    for method, path, ticket in [
        ("POST", grabs, ticket_for(sale, "alice")),
        ("POST", grabs, ticket_for(sale, "bob")),
        ("POST", grabs, "forged"),
        ("POST", f"/v1/sales/{lost.sale_id}/grabs", ticket_for(lost, "alice")),
        ("GET", "/v1/sales", ""),
        ("GET", "/v1/nothing", ""),
        ("PUT", grabs, ""),
    ]:
        headers = {"Origin": SHOP, "Seckill-Ticket": ticket}
        async with http.request(method, path, headers=headers, json={"quantity": 1}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == SHOP, path
            assert response.headers["Access-Control-Expose-Headers"] == EXPOSED
            assert response.headers["Vary"] == "Origin"
            seen.append(response.status)
    assert seen == [202, 409, 401, 503, 200, 404, 405]


@pytest.mark.parametrize("origin", [OTHER, "null", SHOP + ".evil.example", "HTTPS://SHOP.EXAMPLE"])
async def test_other_pages_cannot_read_anything(http, origin):
    for method, headers in [("GET", {"Origin": origin}), ("OPTIONS", asking("POST", origin))]:
        async with http.request(method, "/v1/sales", headers=headers) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
            assert response.headers["Vary"] == "Origin"  # a cache must not hand this to the shop


async def test_whoever_is_no_browser_notices_nothing(http):
    async with http.get("/v1/sales") as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_star_allows_every_origin(processes: Processes):
    gateway = await processes.run("gateway", SECKILL_CORS_ORIGINS="*")
    async with ClientSession(gateway.url) as http:
        for headers in ({"Origin": OTHER}, {}):
            async with http.get("/v1/sales", headers=headers) as response:
                assert response.headers["Access-Control-Allow-Origin"] == "*"
                assert "Vary" not in response.headers  # the same answer for all
                assert "Access-Control-Allow-Credentials" not in response.headers


async def test_closed_is_the_default(gateway: Process):
    async with (
        ClientSession(gateway.url) as http,
        http.options("/v1/sales/demo/grabs", headers=asking("POST")) as response,
    ):
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert not [name for name in response.headers if name.startswith("Access-Control")]
