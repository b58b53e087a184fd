"""Successful answers as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.headers import COMMON

#: A time with its zone, as RFC 3339 writes it.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]

_encode = msgspec.json.Encoder().encode


def json_response(body: object, *, status: int = 200) -> web.Response:
    """Answer with the JSON of a msgspec struct, mapping or list."""
    return web.Response(
        status=status, body=_encode(body), content_type="application/json", headers=COMMON
    )
