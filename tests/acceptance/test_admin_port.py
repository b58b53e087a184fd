"""The admin ports of gateways and consumers: few paths, and no client keeps a probe out."""

from __future__ import annotations

import asyncio
import re

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from seckill.admin_port import CONNECTIONS_MAX

#: Many times what a port holds, and few enough for a usual limit on this process's open files.
CLIENTS = 900


@pytest.fixture(params=["gateway", "consumers"])
def process(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


async def test_it_answers_three_paths_and_no_other(process) -> None:
    async with ClientSession(process.admin_url) as http:
        for path in ("/livez", "/readyz", "/metrics"):
            for method in ("GET", "HEAD"):
                async with http.request(method, path) as response:
                    assert response.status == 200, (method, path)
            async with http.post(path) as response:
                allowed = {method.strip() for method in response.headers["Allow"].split(",")}
                assert (response.status, allowed) == (405, {"GET", "HEAD"})
        for path in ("/", "/health", "/metrics/x", "/livezz"):
            async with http.get(path) as response:
                assert response.status == 404, path


async def conversation(url: str, sent: bytes) -> bytes:
    """Send bytes, and return all that comes until the connection is closed."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


@pytest.mark.usefixtures("no_tracebacks")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"garbage\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01", b"400"),  # the beginning of a TLS handshake
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET http://[::1/livez HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n", b"505"),
        (b"GET /livez\r\n\r\n", b"505"),
    ],
    ids=["garbage", "tls", "long line", "bad target", "2.0", "0.9"],
)
async def test_what_is_no_http_is_refused_without_a_line_in_the_log(process, sent, status) -> None:
    answer = await conversation(process.admin_url, sent)
    assert answer.startswith(b"HTTP/1.")
    assert answer.split()[1] == status


async def test_a_connection_with_another_version_of_http_has_one_answer(gateway, shop_url) -> None:
    follows = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    for url in (gateway.admin_url, shop_url):
        for sent in (
            b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
        ):
            answer = await conversation(url, sent + follows)
            assert len(re.findall(rb"HTTP/1\.[01] \d{3} ", answer)) == 1, (url, sent, answer)


async def test_a_consumer_shows_its_metrics_by_their_names(consumers) -> None:
    async with ClientSession(consumers.admin_url) as http, http.get("/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    assert {"seckill_role_running", "seckill_role_held", "process_cpu_seconds"} <= {
        family.name for family in families
    }


async def test_many_silent_connections_keep_no_probe_out(process) -> None:
    host, port = process.admin_url.removeprefix("http://").split(":")
    async with ClientSession(process.admin_url) as scraper:
        async with scraper.get("/metrics") as response:
            assert response.status == 200
        writers = []
        try:
            for number in range(CLIENTS):
                _, writer = await asyncio.open_connection(host, int(port))
                writers.append(writer)
                if number % 500 == 0:
                    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n")  # and never the rest
            for path in ("/livez", "/readyz"):
                async with ClientSession(process.admin_url) as probe, probe.get(path) as response:
                    assert response.status == 200
            async with scraper.get("/metrics") as response:
                assert response.status == 200
        finally:
            for writer in writers:
                writer.transport.abort()


async def test_a_port_holds_few_connections(process) -> None:
    """The oldest are closed, and those that come last stay."""
    host, port = process.admin_url.removeprefix("http://").split(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(2 * CONNECTIONS_MAX)]
    try:
        closed = [reader.read() for reader, _ in opened[:CONNECTIONS_MAX]]
        ends = await asyncio.wait_for(asyncio.gather(*closed, return_exceptions=True), 30)
        assert all(end == b"" or isinstance(end, ConnectionResetError) for end in ends)
    finally:
        for _, writer in opened:
            writer.transport.abort()
