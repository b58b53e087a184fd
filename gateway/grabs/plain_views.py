"""Which bytes ask plainly for one sale: `GET /v1/sales/{sale_id}` as ordinary clients send it.

Parsed strictly, like plain grabs. Whatever is in any way unusual is left to aiohttp. Pages ask
again and again with the same bytes, so what a head says is remembered.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.grabs.parser import HEAD_MAX, HEADERS_MAX, KEEPS_ALIVE, UNUSUAL, HeaderListener

#: Heads that are remembered, and how long one may be with it: 0.8 MB.
REMEMBERED_MAX = 512
REMEMBERED_LENGTH_MAX = 1536

_BEGINNING = b"GET /v1/sales/"
_REQUEST_LINE = re.compile(rb"GET /v1/sales/([A-Za-z0-9_.-]{1,64}) HTTP/1\.([01])\r\n")
#: With a body it is no plain request, and of ranges a client must not get more than it asked for.
_WITH_MORE = UNUSUAL | {b"content-length", b"range"}


class PlainView(NamedTuple):
    """What such a request says."""

    sale_id: str
    length: int
    origin: str
    #: If-None-Match, "" without.
    if_none_match: str
    is_http10: bool
    keeps_alive: bool


def read_plain_view(data: bytes) -> PlainView | None:
    """Read the plain request with which `data` begins; what follows it is not looked at."""
    if data[:14] != _BEGINNING:
        return None
    end = data.find(b"\r\n\r\n", 0, HEAD_MAX) + 4
    if end < 4:
        return None
    return _remembered(data[:end]) if end <= REMEMBERED_LENGTH_MAX else _parse(data[:end])


def _parse(head: bytes) -> PlainView | None:
    line = _REQUEST_LINE.match(head)
    sent: dict[bytes, bytes] = {}
    try:
        HttpRequestParser(HeaderListener(sent)).feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return None
    lower = {name.lower(): value.strip(b" \t").decode("latin-1") for name, value in sent.items()}
    # Lines between the first and the empty one: a name that came twice is in `lower` once.
    is_whole = len(lower) == head.count(b"\r\n") - 2 <= HEADERS_MAX
    if line is None or not is_whole or b"host" not in lower or not _WITH_MORE.isdisjoint(lower):
        return None
    is_http10 = line[2] == b"0"
    keeps_alive = KEEPS_ALIVE.get((is_http10, lower.get(b"connection", "").lower()))
    if keeps_alive is None:
        return None
    return PlainView(
        line[1].decode(),
        len(head),
        lower.get(b"origin", ""),
        lower.get(b"if-none-match", ""),
        is_http10,
        keeps_alive,
    )


_remembered = lru_cache(REMEMBERED_MAX)(_parse)
