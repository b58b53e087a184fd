"""The admin API answers only callers with the token, and on the admin port alone."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession

from tests.acceptance.admin_api import bearer, call, refusal

CALLS = [
    ("GET", "/admin/sales"),
    ("POST", "/admin/sales"),
    ("GET", "/admin/sales/x"),
    ("POST", "/admin/sales/x/open"),
    ("POST", "/admin/sales/x/close"),
    ("POST", "/admin/sales/x/pause"),
    ("POST", "/admin/sales/x/resume"),
    ("POST", "/admin/sales/x/restock"),
    ("GET", "/admin/sales/x/ledger"),
    ("GET", "/admin/dead-letters"),
    ("GET", "/admin/dead-letters/1"),
    ("POST", "/admin/dead-letters/replay"),
    ("POST", "/admin/dead-letters/discard"),
    ("GET", "/admin/transactions"),
    ("GET", "/admin/transactions/x"),
    ("POST", "/admin/transactions/x/retry"),
    ("POST", "/admin/transactions/x/settle"),
    ("GET", "/admin/card-payments"),
    ("POST", "/admin/card-payments/ask"),
    ("GET", "/admin/pool"),
    ("POST", "/admin/pool/scale"),
    ("POST", "/admin/pool/restart"),
    ("GET", "/admin/audit"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_every_call_needs_the_token(gateway, admin_token, method, path):
    altered = admin_token[:-1] + ("0" if admin_token[-1] != "0" else "1")
    async with ClientSession(gateway.admin_url) as http:
        for headers in ({}, bearer(""), bearer(altered), {"Authorization": f"Basic {admin_token}"}):
            async with http.request(method, path, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await response.json(content_type=None))["code"] == "bad_admin_token"


async def test_bytes_that_are_no_text_are_a_wrong_token(gateway):
    host, port = gateway.admin_url.removeprefix("http://").split(":")
    for raw in (b"\xff" * 32, b"\xc3\xa9" * 16, b"\x80"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /admin/sales HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer " + raw + b"\r\n\r\n"
        )
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.split()[1] == b"401", raw


async def test_health_and_metrics_need_no_token(gateway):
    async with ClientSession(gateway.admin_url) as http:
        for path in ("/livez", "/readyz", "/metrics"):
            for method in ("GET", "HEAD"):
                async with http.request(method, path) as response:
                    assert response.status == 200, (method, path)


async def test_other_paths_and_methods_are_problems(admin):
    assert await refusal(admin, "GET", "/admin") == (404, "not_found")
    async with admin.post("/livez") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    async with admin.delete("/admin/sales") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, POST")


async def test_neither_port_answers_for_the_other(http, admin, admin_token):
    for method, path in (*CALLS, ("GET", "/metrics"), ("GET", "/livez"), ("GET", "/readyz")):
        assert await refusal(http, method, path, headers=bearer(admin_token)) == (404, "not_found")
    for method, path in (
        ("GET", "/v1/sales"),
        ("GET", "/v1/sales/x"),
        ("POST", "/v1/sales/x/grabs"),
        ("POST", "/v1/sales/x/tickets"),
        ("GET", "/v1/sales/x/orders/mine"),
        ("DELETE", "/v1/orders/x"),
    ):
        assert await refusal(admin, method, path) == (404, "not_found")


async def test_without_a_token_in_the_settings_the_api_is_off_and_says_so(processes):
    gateway = await processes.run("gateway", SECKILL_ADMIN_TOKEN="")
    async with ClientSession(gateway.admin_url) as http:
        for headers in ({}, bearer(""), {"Authorization": "Bearer"}):
            for method, path in CALLS:
                status, body = await call(http, method, path, headers=headers)
                assert (status, body["code"]) == (403, "admin_off")
                assert "SECKILL_ADMIN_TOKEN" in body["detail"]
        async with http.get("/livez") as response:
            assert response.status == 200
