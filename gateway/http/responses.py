"""What every answer has in common: its headers, and how JSON is written.

The headers lie in the dictionaries from which answers are built rather than in a signal of aiohttp,
whose coroutines would cost the hot path more than the headers do.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import HttpVersion11, web, web_response
from multidict import istr

#: For JSON, which no browser should guess about, keep, frame or run anything in. A handler that
#: answers with something else builds on these and overrides what differs.
#: istr is folded for comparison here, once, and not for each answer.
COMMON: dict[str, str] = {
    istr("X-Content-Type-Options"): "nosniff",
    istr("Cache-Control"): "no-store",
    istr("Referrer-Policy"): "no-referrer",
    istr("Content-Security-Policy"): "default-src 'none'; frame-ancestors 'none'",
}
#: A year, as usual: browsers that were here once do not try plain HTTP again. Other names below
#: this host are not ours to promise for.
HSTS: dict[str, str] = {istr("Strict-Transport-Security"): "max-age=31536000"}
#: What `Server` says: no versions.
SERVER = "seckill"

#: A time with its zone, as RFC 3339 writes it.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]

_encode = msgspec.json.Encoder().encode


def json_response(body: object, *, status: int = 200) -> web.Response:
    """Return an answer with the JSON of a msgspec struct, mapping or list."""
    return web.Response(
        status=status, body=_encode(body), content_type="application/json", headers=COMMON
    )


def set_up(app: web.Application, *, tls: bool) -> None:
    """Send no versions in `Server`, close where it must be and, with TLS, bind browsers to it."""
    # aiohttp has no setting for it, and a header in COMMON would miss the answers that aiohttp
    # gives by itself: to what is not HTTP, say.
    web_response.SERVER_SOFTWARE = SERVER  # type: ignore[attr-defined]  # aiohttp does not export it
    app.on_response_prepare.append(_close_after_odd_framing)
    if tls:
        app.on_response_prepare.append(_bind_to_tls)


async def _close_after_odd_framing(request: web.Request, response: web.StreamResponse) -> None:
    """Close after a request behind which it is not certain where the next one begins.

    An upgrade is ignored, as RFC 9110 allows, but the client may go on in the other protocol; what
    follows a CONNECT is a tunnel's; and HTTP/1.0 knows no chunks, so a proxy of that version frames
    them otherwise.
    """
    is_chunked = "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    if (
        "Upgrade" in request.headers
        or request.method == "CONNECT"
        or (is_chunked and request.version < HttpVersion11)
    ):
        response.force_close()
        response.headers["Connection"] = "close"


async def _bind_to_tls(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HSTS)
