"""Headers of every answer: what browsers must not do with it, and nothing about our versions."""

from __future__ import annotations

import asyncio

import pytest

from tests.processes import Process

COMMON = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


async def test_every_answer_carries_them(http, open_sale, ticket_for, login_for):
    sale = await open_sale(stock=1)
    path = f"/v1/sales/{sale.sale_id}"
    alice, bob = ({"Seckill-Ticket": ticket_for(sale, name)} for name in ("alice", "bob"))
    seen, ids = [], set()
    for method, where, headers, body in [
        ("GET", "/v1/sales", {}, None),
        ("GET", path, {}, None),
        ("POST", f"{path}/tickets", login_for("alice"), None),
        ("POST", f"{path}/grabs", alice, {"quantity": 1}),
        ("POST", f"{path}/grabs", alice, {"quantity": 1}),
        ("POST", f"{path}/grabs", bob, {"quantity": 1}),
        ("POST", f"{path}/grabs", bob, {"quantity": 0}),
        ("POST", f"{path}/grabs", bob, "x" * 5000),
        ("POST", f"{path}/grabs", {}, {"quantity": 1}),
        ("GET", f"{path}/orders/mine", {}, None),
        ("GET", "/v1/nothing", {}, None),
        ("OPTIONS", "/v1/sales", {}, None),
    ]:
        async with http.request(method, where, headers=headers, json=body) as response:
            got = response.headers
            # Views of sales alone may be kept, for a second.
            cached = method == "GET" and where in ("/v1/sales", path)
            expected = COMMON | ({"Cache-Control": "public, max-age=1"} if cached else {})
            assert {name: got.get(name) for name in COMMON} == expected, (method, where)
            assert got["Server"] == "seckill"
            ids.add(got["Request-Id"])
            # Not over plain HTTP, and not for pages that no setting allows.
            assert "Strict-Transport-Security" not in got
            assert not [name for name in got if name.startswith(("Access-Control", "Vary"))]
            seen.append(response.status)
    assert seen == [200, 200, 201, 202, 200, 409, 422, 413, 401, 401, 404, 405]
    assert len(ids) == len(seen)


async def test_an_answer_has_the_id_of_its_request(http, open_sale, ticket_for):
    sale = await open_sale()
    path = f"/v1/sales/{sale.sale_id}"
    sent = {"Request-Id": "req-1042", "Seckill-Ticket": ticket_for(sale, "alice")}
    for method, where in (("GET", path), ("POST", f"{path}/grabs"), ("GET", "/v1/nothing")):
        async with http.request(method, where, headers=sent, json={"quantity": 1}) as response:
            assert response.headers["Request-Id"] == "req-1042"


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",  # the beginning of a TLS handshake
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nConnection: close\r\n\r\n",
    ],
    ids=["tls", "bad header", "long line", "options *", "expectation"],
)
async def test_answers_that_aiohttp_gives_by_itself_name_no_version(
    gateway: Process, request_: bytes
):
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_)
    answer = await asyncio.wait_for(reader.read(), 10)  # to the end: it is closed
    writer.close()
    assert answer.startswith(b"HTTP/1.")
    assert b"\r\nServer: seckill\r\n" in answer
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
