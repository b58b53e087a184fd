"""A shop's site for tests: `web/` as files, under the policy that docs/front-end.md asks for.

Its sessions are a cookie `buyer`, and its login token is made as a shop's server would make it.

async with serve_shop(processes, settings) as site:
    async with visiting(chromium, site)(sale, "alice") as page:
        await press(page, "Buy")
        await says(page, "Yours until")
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from config.settings import PROJECT_ROOT, Settings
from ops.processes.ports import free_port
from seckill.auth import login_tokens
from seckill.auth.key_ring import KeyRing
from seckill.sales.sales import Sale
from tests.processes import Processes

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

#: A page of a loaded machine.
PATIENCE_MS = 60_000
#: What a browser writes down of answers that refuse, as they do here on purpose.
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of [45]")
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

#: Where the pictures of sales are; every one of them is a blue shape.
PICTURES = "https://pictures.example"
_PICTURE = {
    "content_type": "image/svg+xml",
    "body": '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="300">'
    '<rect width="400" height="300" fill="#dfe7f5"/><circle cx="200" cy="150" r="90" fill="#46c"/>'
    "</svg>",
}


@dataclass(frozen=True, slots=True)
class ShopSite:
    """A site that is served; `url` is its origin."""

    url: str
    gateway_url: str

    def page_of(self, sale_id: str, lang: str = "en") -> str:
        """Return the address of a sale's page."""
        return f"{self.url}/shop/index.html?sale={sale_id}&lang={lang}"


Visit = Callable[..., AbstractAsyncContextManager["Page"]]


@asynccontextmanager
async def serve_shop(
    processes: Processes, settings: Settings, **variables: str
) -> AsyncIterator[ShopSite]:
    """Run a gateway that lets in a shop's pages, and serve those."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    gateway = await processes.run("gateway", SECKILL_CORS_ORIGINS=origin, **variables)
    keys = KeyRing.parse(settings.jwt_keys.get_secret_value(), setting="test")
    async with serve_pages(port, gateway.url, keys) as site:
        yield site


def visiting(chromium: Browser, site: ShopSite) -> Visit:
    """Return what opens a sale's page in a browser of its own, of a buyer if one is named.

    A script's error or a breach of the policy fails the test.
    """

    @asynccontextmanager
    async def visit(sale: Sale, buyer: str = "", *, lang: str = "en") -> AsyncIterator[Page]:
        context = await chromium.new_context(viewport={"width": 390, "height": 844})
        if buyer:
            await context.add_cookies([{"name": "buyer", "value": buyer, "url": site.url}])
        if sale.picture_url:  # not always: it turns the browser's caches off
            await context.route(f"{PICTURES}/*", lambda route: route.fulfill(**_PICTURE))
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        await page.goto(site.page_of(sale.sale_id, lang))
        try:
            yield page
        finally:
            await context.close()
        assert [text for text in wrong if not REFUSED.match(text)] == []

    return visit


async def says(page: Page, text: str) -> None:
    """Wait until the page's status is this."""
    await page.locator("#status").filter(has_text=text).wait_for()


async def press(page: Page, name: str) -> None:
    """Press the button of this name."""
    await page.get_by_role("button", name=name, exact=True).click()


@asynccontextmanager
async def serve_pages(port: int, gateway_url: str, jwt_keys: KeyRing) -> AsyncIterator[ShopSite]:
    """Serve the shop's pages on a port."""
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
