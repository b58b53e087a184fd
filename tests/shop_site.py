"""A shop's site for tests: `web/` as files, under the policy that docs/front-end.md asks for.

Its sessions are a cookie `buyer`, and its login token is made as a shop's server would make it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from config.settings import PROJECT_ROOT
from seckill.auth import login_tokens
from seckill.auth.key_ring import KeyRing

#: Which methods of paying the page offers, and what it sends with a card: the test decides.
_CONFIG = """
const query = new URLSearchParams(location.search);
export default {{
  gateway: {gateway}, sale: query.get("sale"), signIn: "/sign-in",
  async login() {{
    const response = await fetch("/login-token", {{ cache: "no-store" }});
    return response.ok ? response.text() : null;
  }},
  methods: JSON.parse(localStorage.getItem("methods") ?? '["wallet"]'),
  async card() {{ return JSON.parse(localStorage.getItem("card") ?? "{{}}"); }},
}};
"""


@dataclass(frozen=True, slots=True)
class ShopSite:
    """A site that is served; `url` is its origin."""

    url: str
    gateway_url: str

    def page_of(self, sale_id: str, lang: str = "en") -> str:
        """Return the address of a sale's page."""
        return f"{self.url}/shop/index.html?sale={sale_id}&lang={lang}"


@asynccontextmanager
async def shop_site(port: int, gateway_url: str, jwt_keys: KeyRing) -> AsyncIterator[ShopSite]:
    """Serve the shop's pages on a port inside the block."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https:; "
        f"connect-src 'self' {gateway_url}; worker-src blob:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )

    async def config(_: web.Request) -> web.Response:
        text = _CONFIG.format(gateway=json.dumps(gateway_url))
        return web.Response(text=text, content_type="text/javascript")

    async def login_token(request: web.Request) -> web.Response:
        buyer_id = request.cookies.get("buyer")
        if not buyer_id:
            return web.Response(status=204)
        expires_at_s = int(time.time()) + 600
        token = login_tokens.issue(jwt_keys, buyer_id=buyer_id, expires_at_s=expires_at_s)
        return web.Response(text=token)

    async def protect(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Content-Security-Policy"] = policy

    app = web.Application()
    app.on_response_prepare.append(protect)
    app.add_routes(
        [
            web.get("/shop/config.js", config),
            web.get("/login-token", login_token),
            web.get("/favicon.ico", _no_content),
            web.static("/", PROJECT_ROOT / "web"),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield ShopSite(f"http://127.0.0.1:{port}", gateway_url)
    finally:
        await runner.cleanup()


async def _no_content(_: web.Request) -> web.Response:
    return web.Response(status=204)
