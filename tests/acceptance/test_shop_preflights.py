"""What a browser asks a gateway of another origin, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from gateway.http.cors import headers_for, preflight
from ops.processes.ports import free_port
from seckill.auth.key_ring import KeyRing
from tests.shop_site import serve_pages

_GRAB = """async url => {
    const { SeckillClient } = await import("/seckill-client.js");
    const client = new SeckillClient({ url, login: () => "login" });
    await client.prepare("s");
    await client.grab("s");
}"""


@pytest.fixture
async def calls() -> AsyncIterator[tuple[str, list[str]]]:
    """A gateway's address, and the calls that arrive there; its sale opens in six seconds."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.path}")
        if request.method == "OPTIONS":
            response = await preflight("POST")(request)
        elif request.path.endswith("/tickets"):
            now = datetime.now(UTC)
            later = {"expires_at": now + timedelta(hours=1), "opens_at": now + timedelta(seconds=6)}
            times = {name: moment.isoformat() for name, moment in later.items()}
            body = {"ticket": "t", "server_time": now.isoformat(), **times}
            response = web.json_response(body, status=201)
        else:
            status = 202 if request.method == "POST" else 405
            response = web.json_response({"order_id": "o", "status": "queued"}, status=status)
        response.headers.update(headers_for("http://shop", {"*"}))
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


async def test_before_the_opening_a_browser_learns_what_it_may_send_in_it(chromium, calls):
    url, seen = calls
    keys = KeyRing.parse(f"k1:{'x' * 40}", setting="test")
    async with serve_pages(free_port(), url, keys) as site:
        page = await chromium.new_page()
        await page.goto(f"{site.url}/shop/texts.js")
        await page.evaluate(_GRAB, url)
    grabs = [call for call in seen if call.endswith("/grabs")]
    assert [call.split()[0] for call in grabs] == ["OPTIONS", "GET", "POST"]
