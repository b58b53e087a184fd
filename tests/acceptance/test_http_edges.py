"""At the edges of HTTP: one answer a request, or the connection is closed behind it (C23, C55)."""

from __future__ import annotations

import json

import pytest
from aiohttp import ClientSession

from tests.acceptance.raw_clients import BODY, LAST, grab_request
from tests.processes import Process

GET = b"GET /v1/sales HTTP/1.1\r\nHost: x\r\n%b\r\n"
CHUNKS = b"f\r\n" + BODY + b"\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    return await processes.run("gateway")


def statuses_in(received: bytes) -> list[bytes]:
    return [line.split()[1] for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.")]


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_upgrade_is_ignored_and_the_connection_closed_behind_the_answer(
    gateway, connect, open_sale, ticket_for, protocol
):
    sale = await open_sale()
    upgrade = ("Connection: Upgrade", f"Upgrade: {protocol}")
    request = grab_request(sale, ticket_for(sale, "ann"), BODY, None, *upgrade)
    client = await connect(gateway)
    await client.send(request[: -len(BODY)])
    await client.send(BODY)
    assert statuses_in(await client.rest()) == [b"202"]
    client = await connect(gateway)
    await client.send(GET % b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LAST + LAST)
    assert statuses_in(await client.rest()) == [b"200"]


async def test_chunks_in_http_1_0_are_the_last_request_of_their_connection(
    gateway, connect, open_sale, ticket_for
):
    sale = await open_sale()
    chunked = "Transfer-Encoding: chunked"
    request = grab_request(sale, ticket_for(sale, "ann"), CHUNKS, chunked, "Connection: keep-alive")
    client = await connect(gateway)
    await client.send(request.replace(b"HTTP/1.1", b"HTTP/1.0") + LAST)
    assert statuses_in(await client.rest()) == [b"202"]


async def test_a_request_in_a_tunnel_is_no_request(gateway, connect, open_sale, ticket_for):
    sale = await open_sale()
    inner = grab_request(sale, ticket_for(sale, "ann"))
    length = b"Content-Length: %d\r\n" % len(inner)
    for headers in (b"", length):
        client = await connect(gateway)
        await client.send(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (headers, inner))
        assert statuses_in(await client.rest()) == [b"404"]


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/1.2", b"HTTP/3", b"HTTP/0.9"])
async def test_another_version_is_505_in_a_version_that_is_spoken(gateway, connect, version):
    client = await connect(gateway)
    await client.send(b"GET /v1/sales %b\r\nHost: x\r\n\r\n" % version)
    status, head, body = await client.answer()
    assert status == 505
    assert head.startswith(b"HTTP/1.1 ")
    assert json.loads(body)["code"] == "http_version"
    assert await client.rest() == b""


async def test_head_is_answered_as_get_without_the_body(gateway, connect, open_sale):
    sale = await open_sale()
    async with ClientSession(gateway.url) as http:
        for path in ("/v1/sales", f"/v1/sales/{sale.sale_id}", "/openapi.json", "/docs"):
            async with http.head(path) as head, http.get(path) as get:
                assert (head.status, head.content_type) == (200, get.content_type), path
                assert await head.read() == b""
                assert await get.read()


async def test_options_of_everything_is_a_problem_like_any_other(gateway, connect):
    client = await connect(gateway)
    await client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
    for _ in range(2):
        status, head, body = await client.answer()
        assert b"application/problem+json" in head
        assert (status, json.loads(body)["code"]) == (404, "not_found")


async def test_the_large_files_of_the_docs_are_sent_compressed(gateway):
    """C28: a hundred bytes that ask for them brought 1.7 MB, for which grabs waited."""
    sizes = []
    for encoding in ("gzip", "identity"):
        async with (
            ClientSession(gateway.url, auto_decompress=False) as http,
            http.get("/docs/swagger-ui-bundle.js", headers={"Accept-Encoding": encoding}) as got,
        ):
            assert got.headers.get("Content-Encoding", "identity") == encoding
            sizes.append(len(await got.read()))
    assert sizes[0] < sizes[1] / 3
