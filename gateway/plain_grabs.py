"""Which bytes are a plain grab: the hot route as every ordinary client sends it.

Parsed by llhttp, the parser that aiohttp has, and strictly. What is in any way unusual is none of
the fast lane's business, however right it may be: aiohttp knows what to do with it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.admission import BODY_MAX

#: A longer head is aiohttp's: it knows where its own limits are.
HEAD_MAX = 8 * 1024
HEADERS_MAX = 64

_BEGINNING = b"POST /v1/sales/"
_REQUEST_LINE = re.compile(rb"POST /v1/sales/([A-Za-z0-9_.-]{1,64})/grabs HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"[1-9][0-9]{0,3}\Z")
#: Each changes what the request means, or how long it is.
_UNUSUAL = {b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"trailer", b"te"}
_JSON = {b"application/json", b"application/json; charset=utf-8"}


class Unread(Enum):
    """Why there is no plain grab."""

    #: It may become one with the bytes that follow.
    UNFINISHED = "unfinished"
    #: It is something else.
    UNUSUAL = "unusual"


class PlainGrab(NamedTuple):
    """What a plain grab says; nothing of it is checked yet but its form."""

    sale_id: str
    ticket: str
    body: bytes
    #: How many bytes it takes.
    length: int
    origin: str
    #: X-Forwarded-For, "" without.
    forwarded: str


class _Headers(dict[bytes, bytes]):
    """Collects headers as llhttp reports them, by their names as they were sent."""

    def __init__(self) -> None:
        self.on_header = self.__setitem__


def read_plain_grab(data: bytes) -> PlainGrab | Unread:
    """Read the plain grab with which `data` begins; what follows it is not looked at."""
    line = _REQUEST_LINE.match(data)
    end = data.find(b"\r\n\r\n", 0, HEAD_MAX) + 4
    if end < 4 or line is None:
        may_become_one = end < 4 and len(data) < HEAD_MAX and _may_begin(data)
        return Unread.UNFINISHED if may_become_one else Unread.UNUSUAL
    headers = _read_headers(data[:end])
    if headers is None:
        return Unread.UNUSUAL
    length = headers[b"content-length"]
    end_of_body = end + int(length)
    if len(data) < end_of_body:
        return Unread.UNFINISHED
    return PlainGrab(
        line[1].decode(),
        headers.get(b"seckill-ticket", b"").decode("latin-1"),
        data[end:end_of_body],
        end_of_body,
        headers.get(b"origin", b"").decode("latin-1"),
        headers.get(b"x-forwarded-for", b"").decode("latin-1"),
    )


def _may_begin(data: bytes) -> bool:
    """Tell whether a head that is not all there may be that of a plain grab."""
    size = len(_BEGINNING)
    return data[:size] == _BEGINNING[: len(data)]


def _read_headers(head: bytes) -> dict[bytes, bytes] | None:
    """Return a head's headers by their names in lower case; None if anything is unusual."""
    sent = _Headers()
    try:
        HttpRequestParser(sent).feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return None
    headers = {name.lower(): value.strip(b" \t") for name, value in sent.items()}
    # Lines between the first and the empty one: a name that came twice is in `headers` once.
    if len(headers) != head.count(b"\r\n") - 2 or len(headers) > HEADERS_MAX:
        return None
    if not headers.keys().isdisjoint(_UNUSUAL) or b"host" not in headers:
        return None
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    length = headers.get(b"content-length", b"")
    if headers.get(b"content-type") not in _JSON or not _LENGTH.match(length):
        return None
    return headers if int(length) <= BODY_MAX else None
