"""Cross-origin requests: which web pages may call from a browser (CORS in the Fetch standard).

Without configured origins nothing of this is installed. Credentials are never allowed: buyers are
known by headers that a page must hold itself, not by cookies that a browser adds for any page.
"""

from __future__ import annotations

from collections.abc import Set

from aiohttp import web

from config.field_types import ANY_ORIGIN
from gateway.http.problems import Handler
from gateway.http.responses import COMMON

#: What pages may send beyond the few headers that are always allowed.
REQUEST_HEADERS = "Content-Type, Authorization, Seckill-Ticket, Last-Event-ID, If-None-Match"
#: What pages may read of an answer, so that they know when to send a request again, what they have
#: a copy of, and which request to name to the shop's support.
RESPONSE_HEADERS = "Retry-After, RateLimit, RateLimit-Policy, ETag, Request-Id"
#: Browsers need not ask again for this long; Chromium takes no more than two hours.
PREFLIGHT_S = 7200


def allow_origins(app: web.Application, origins: Set[str]) -> None:
    """Let pages of these origins read every answer, refusals included."""

    async def allow(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.extend(headers_for(request.headers.get("Origin", ""), origins))

    app.on_response_prepare.append(allow)


def headers_for(origin: str, origins: Set[str]) -> dict[str, str]:
    """Return what an answer to a page of `origin` ("": none) says of who may read it."""
    headers: dict[str, str] = {}
    if not origins:
        return headers
    if ANY_ORIGIN in origins:
        origin = ANY_ORIGIN
    else:  # a cache must not give an answer for one origin to another
        headers["Vary"] = "Origin"
    if origin in origins:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = RESPONSE_HEADERS
    return headers


def preflight(methods: str) -> Handler:
    """Return the handler that answers browsers which methods and headers a path takes."""
    headers = {
        **COMMON,
        "Allow": f"{methods}, OPTIONS",
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": REQUEST_HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_S),
    }

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=204, headers=headers)

    return answer
