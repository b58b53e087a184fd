"""Which bytes are a plain grab: the hot route as every ordinary client sends it.

Parsed by llhttp, the parser that aiohttp has, and strictly. Whatever is in any way unusual, however
right it may be, is left to aiohttp, which knows what to do with it.

Clients of one kind send the same bytes but for the ticket. So what a grab says without its ticket
is remembered, and most grabs need no parser.
"""

from __future__ import annotations

import re
import string
from enum import Enum
from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.http.requests import BODY_MAX
from gateway.overload.connection_limits import GRAB_WITHIN

#: A longer head is aiohttp's: it knows where its own limits are.
HEAD_MAX = 8 * 1024
HEADERS_MAX = 64
#: Heads of one client have the same names. So many kinds of heads are known without looking again.
SHAPES_MAX = 256
#: Grabs without their tickets that are remembered, and how long one may be with it: 1.5 MB.
REMEMBERED_MAX = 512
REMEMBERED_LENGTH_MAX = 1536

_BEGINNING = b"POST /v1/sales/"
_REQUEST_LINE = re.compile(rb"POST /v1/sales/([A-Za-z0-9_.-]{1,64})/grabs HTTP/1\.([01])\r\n")
#: As ordinary clients write them: without a sign, or zeros before.
_LENGTHS = {b"%d" % length: length for length in range(1, BODY_MAX + 1)}
#: Each changes what the request means, or how long it is; or it is to be on the answer.
UNUSUAL = {
    b"transfer-encoding",
    b"content-encoding",
    b"expect",
    b"upgrade",
    b"trailer",
    b"te",
    b"request-id",
}
#: What `Connection` says of a version's connection; anything else is unusual.
KEEPS_ALIVE = {
    (False, ""): True,
    (False, "keep-alive"): True,
    (False, "close"): False,
    (True, ""): False,
    (True, "keep-alive"): True,
    (True, "close"): False,
}
_NEEDED = {b"host", b"content-length", b"content-type"}
_JSON = {b"application/json", b"application/json; charset=utf-8"}
#: What stands before a ticket, as nearly all clients write it.
_BEFORE_TICKET = (b"\r\nSeckill-Ticket: ", b"\r\nseckill-ticket: ")
#: The bytes of good tickets. None of them means anything to a parser of heads.
_TICKET_BYTES = (string.ascii_letters + string.digits + "_.~-").encode()


class GrabRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a buyer wants. A sale may allow fewer units (`per_order_max`)."""

    quantity: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1


#: Reads the body of a grab.
DECODER = msgspec.json.Decoder(GrabRequest)


class NotPlain(Enum):
    """Why there is no plain grab."""

    #: It may become one with the bytes that follow.
    UNFINISHED = "unfinished"
    #: It is something else.
    UNUSUAL = "unusual"


class PlainGrab(NamedTuple):
    """What a plain grab says; nothing of it is checked yet but its form."""

    sale_id: str
    ticket: str
    #: None where the body is not that of a grab: aiohttp will find out why, and say so.
    quantity: int | None
    #: How many bytes it takes.
    length: int
    origin: str
    #: X-Forwarded-For, "" without.
    forwarded: str
    #: Whether it came as HTTP/1.0: proxies ask so, and simple tools.
    is_http10: bool = False
    #: Whether the connection stays open after the answer.
    keeps_alive: bool = True
    #: The header of this name, "" without.
    traceparent: str = ""


class HeaderListener:
    """What llhttp reports to: headers alone, and straight into a dictionary."""

    __slots__ = ("on_header",)

    def __init__(self, headers: dict[bytes, bytes]) -> None:
        self.on_header = headers.__setitem__


class _Shape(NamedTuple):
    """The names of what matters in a head, as they were sent; None where there is none."""

    length: bytes
    type: bytes
    ticket: bytes | None
    connection: bytes | None
    origin: bytes | None
    forwarded: bytes | None
    traceparent: bytes | None


def read_plain_grab(data: bytes) -> PlainGrab | NotPlain:
    """Read the plain grab with which `data` begins; what follows it is not looked at."""
    if cut := _cut_ticket(data):
        ticket, rest = cut
        plain = _read_without_ticket(rest)
        if plain is not None:
            sale_id, _, quantity, length, origin, forwarded, is_http10, keeps_alive, trace = plain
            length += len(ticket)
            return PlainGrab(
                sale_id,
                ticket.decode(),
                quantity,
                length,
                origin,
                forwarded,
                is_http10,
                keeps_alive,
                trace,
            )
    return _parse(data)


def _cut_ticket(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the ticket in `data`, and all but that, if it is good and the rest worth a memory."""
    if len(data) > REMEMBERED_LENGTH_MAX or not (begins := _ticket_in(data)):
        return None
    ends = data.find(b"\r", begins)
    ticket = data[begins:ends]
    if ticket.translate(None, _TICKET_BYTES):
        return None
    return ticket, data[:begins] + data[ends:]


def _ticket_in(data: bytes) -> int:
    """Return where the ticket begins, 0 if that is not to be seen."""
    for before in _BEFORE_TICKET:
        if (at := data.find(before)) >= 0:
            return at + len(before)
    return 0


@lru_cache(REMEMBERED_MAX)
def _read_without_ticket(data: bytes) -> PlainGrab | None:
    """Read a plain grab whose ticket was cut out, and which says the same with any good ticket.

    Return None if it is not plain, or if what was cut out was no ticket: what looks like one may
    stand in a body.
    """
    plain = _parse(data)
    if isinstance(plain, NotPlain) or plain.ticket or _ticket_in(data) > data.find(b"\r\n\r\n"):
        return None
    return plain


def _parse(data: bytes) -> PlainGrab | NotPlain:
    line = _REQUEST_LINE.match(data)
    end = data.find(b"\r\n\r\n", 0, HEAD_MAX) + 4
    if end < 4 or line is None:
        may_become_one = end < 4 and len(data) < HEAD_MAX and _may_begin(data)
        return NotPlain.UNFINISHED if may_become_one else NotPlain.UNUSUAL
    head = data[:end]
    sent: dict[bytes, bytes] = {}
    try:
        HttpRequestParser(HeaderListener(sent)).feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return NotPlain.UNUSUAL
    # Lines between the first and the empty one: a name that came twice is in `sent` once.
    shape = _shape_of(tuple(sent)) if len(sent) == head.count(b"\r\n") - 2 else None
    if shape is None or sent[shape.type].strip(b" \t") not in _JSON:
        return NotPlain.UNUSUAL
    length = _LENGTHS.get(sent[shape.length].strip(b" \t"))
    is_http10 = line[2] == b"0"
    keeps_alive = KEEPS_ALIVE.get((is_http10, _text(sent, shape.connection).lower()))
    if length is None or keeps_alive is None:
        return NotPlain.UNUSUAL
    body = data[end : end + length]
    if len(body) < length:
        return NotPlain.UNFINISHED
    return PlainGrab(
        line[1].decode(),
        _text(sent, shape.ticket),
        _quantity(body),
        end + length,
        _text(sent, shape.origin),
        _text(sent, shape.forwarded),
        is_http10,
        keeps_alive,
        "" if shape.traceparent is None else _text(sent, shape.traceparent),
    )


def length_of_lone_grab(data: bytes, *, cors: bool) -> int:
    """Return the length of `data` if it is one grab, framed for certain, to be refused unparsed.

    Return 0 if it may be anything else, or if its answer depends on more than its framing: it comes
    from a page, or its connection is not to be kept. It takes a fraction of the time that reading
    it takes, when there is no time.
    """
    if cut := _cut_ticket(data):
        _, rest = cut
        return len(data) if _is_lone_without_ticket(rest, cors=cors) else 0
    return len(data) if _is_lone(data, cors=cors) else 0


@lru_cache(REMEMBERED_MAX)
def _is_lone_without_ticket(data: bytes, *, cors: bool) -> bool:
    """Tell whether it is a lone grab with any good ticket; one cut out of a body is none."""
    return _ticket_in(data) < data.find(b"\r\n\r\n") and _is_lone(data, cors=cors)


def _is_lone(data: bytes, *, cors: bool) -> bool:
    end = data.find(b"\r\n\r\n", 0, HEAD_MAX) + 4
    if data[:15] != _BEGINNING or data.find(b"/grabs HTTP/1.1\r\n", 0, GRAB_WITHIN) < 0:
        return False
    name = data.find(b"\r\nContent-Length: ", 0, end)
    if name < 0:
        name = data.find(b"\r\ncontent-length: ", 0, end)
    length = data[name + 18 : data.find(b"\r", name + 18, end)]
    if name < 0 or _LENGTHS.get(length) != len(data) - end:
        return False
    head = data[:end].lower()
    if head.count(b"\ncontent-length") > 1 or b"\ntransfer-encoding" in head:
        return False
    connection = head.find(b"\nconnection:")
    if connection >= 0 and head[connection + 12 : connection + 25] != b" keep-alive\r\n":
        return False
    return not (cors and b"\norigin:" in head)


def _quantity(body: bytes) -> int | None:
    try:
        return DECODER.decode(body).quantity
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _text(headers: dict[bytes, bytes], name: bytes | None) -> str:
    return "" if name is None else headers[name].strip(b" \t").decode("latin-1")


def _may_begin(data: bytes) -> bool:
    """Tell whether a head that is not all there may be that of a plain grab."""
    size = len(_BEGINNING)
    return data[:size] == _BEGINNING[: len(data)]


@lru_cache(SHAPES_MAX)
def _shape_of(names: tuple[bytes, ...]) -> _Shape | None:
    """Find what matters among the names of a head; None if anything is unusual."""
    lower = {name.lower(): name for name in names}
    if len(lower) < len(names) or len(names) > HEADERS_MAX:
        return None
    if not lower.keys().isdisjoint(UNUSUAL) or not lower.keys() >= _NEEDED:
        return None
    return _Shape(
        lower[b"content-length"],
        lower[b"content-type"],
        lower.get(b"seckill-ticket"),
        lower.get(b"connection"),
        lower.get(b"origin"),
        lower.get(b"x-forwarded-for"),
        lower.get(b"traceparent"),
    )
