"""What a client may send on one connection, as data that Hypothesis makes and shrinks.

Sales and tickets are placeholders in braces: each twin has buyers of its own, with ids of one
length, so that both get the same bytes but for the buyers' names and the tickets' signatures.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

#: States that a sale can be in, and ids of no sale.
SALES = ("open", "sold", "paused", "closed", "created")
BUYERS = 3
REQUESTS_MAX = 20
BODY = b'{"quantity": 1}'
#: Answered by aiohttp alone.
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"
#: The statuses of a good grab in each sale.
_STATUSES = {"open": {200, 202}, "sold": {409}, "paused": {503}, "closed": {410}, "created": {403}}


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `statuses` are those of its answer, where these are certain."""

    data: bytes
    statuses: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Spoil:
    """A few bytes lost, doubled, changed or put in, at a place modulo the length."""

    at: int
    how: str
    size: int
    put: bytes


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests, what is wrong with them, and in which packets they come."""

    requests: tuple[Request, ...]
    spoils: tuple[Spoil, ...]
    #: Where packets end, modulo the length.
    cuts: tuple[int, ...]
    #: Whether each packet is read before the next one is sent.
    patient: bool
    #: Whether the client waits for answers before it ends.
    waits: bool
    half_closes: bool

    def pieces(self, names: dict[bytes, bytes]) -> list[bytes]:
        """Return the packets, with placeholders replaced."""
        data = b"".join(request.data for request in self.requests)
        for placeholder, name in names.items():
            data = data.replace(placeholder, name)
        data = self._spoilt(data)
        ends = sorted({cut % len(data) for cut in self.cuts} - {0}) if data else []
        pairs = zip([0, *ends], [*ends, len(data)], strict=True)
        return [data[start:end] for start, end in pairs if end > start]

    def _spoilt(self, data: bytes) -> bytes:
        spoilt = bytearray(data)
        for spoil in self.spoils:
            at = spoil.at % (len(spoilt) + 1)
            match spoil.how:
                case "lose":
                    del spoilt[at : at + spoil.size]
                case "double":
                    spoilt[at:at] = spoilt[at : at + spoil.size]
                case "flip" if at < len(spoilt):  # not set: it may be that already, for one twin
                    spoilt[at] ^= spoil.size
                case _:
                    spoilt[at:at] = spoil.put
        return bytes(spoilt)

    @property
    def is_patient(self) -> bool:
        """Tell whether it is certain what is read at a time, and answered before the end."""
        return self.patient and self.waits

    @property
    def statuses(self) -> list[frozenset[int]] | None:
        """The statuses of all answers in their order; None if they are not certain."""
        certain = all(request.statuses for request in self.requests)
        return [r.statuses for r in self.requests] if certain and not self.spoils else None


def ticket(sale: str, buyer: int) -> bytes:
    """Return the placeholder of a good ticket."""
    return b"{ticket:%b:%d}" % (sale.encode(), buyer)


_NOT_GOOD = [
    b"",
    b"no ticket",
    b"a~9~b~c",
    b"~~~",
    b"x" * 513,
    b"\xff",
    b"k~" + b"9" * 400 + b"~b~c",
]
_BODIES = [
    b'{"quantity":1}',
    b"{}",
    b'{"quantity": 2}',
    b'{"quantity": 0}',
    b'{"quantity": -1}',
    b'{"quantity": 1.0}',
    b'{"quantity": true}',
    b'{"quantity": null}',
    b'{"quantity": "1"}',
    b'{"quantity": 1, "quantity": 1}',
    b'{"quantity": %b}' % (b"9" * 4000),
    b'{"quantity": 2147483648}',
    b'{"colour": "red"}',
    b'{"\\ud800": 1}',
    b"[1]",
    b"1",
    b"null",
    b"",
    b"x",
    b" ",
    b"\0",
    b"\xff" * 10,
    b"\xef\xbb\xbf{}",
    b"[" * 3000,
    b" " * 4094 + b"{}",
    b" " * 4095 + b"{}",
    b" " * 9000,
    b"POST /v1/sales/x/grabs HTTP/1.1\r\n\r\n",
    LAST,
]
_TYPES = [
    b"application/json; charset=utf-8",
    b"application/json;charset=UTF-8",
    b"Application/JSON",
    b"application/json ; charset=latin-1",
    b'application/json; charset="utf-8"',
    b"application/json;",
    b"application/json, text/plain",
    b"application/problem+json",
    b"text/plain",
    b"json",
    b"",
    b"/",
    b"\xe4/\xff",
]
_VERSIONS = [b"HTTP/1.1"] * 8 + [
    b"HTTP/1.0",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/01.1",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"ICE/1.1",
    b"RTSP/1.0",
]
_METHODS = [b"POST"] * 10 + [b"PUT", b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"post", b"P", b"\xff"]
_METHODS += [b"CONNECT", b"TRACE", b"M-SEARCH", b"PRI", b"SOURCE"]
_TARGETS = [b"/v1/sales/{%b}/grabs"] * 10 + [
    b"/v1/sales/{%b}/grabs?x=1",
    b"/v1/sales/{%b}/grabs?",
    b"/v1/sales/{%b}/grabs#x",
    b"/v1/sales/{%b}/grabs/",
    b"//v1/sales/{%b}/grabs",
    b"/v1/sales/../sales/{%b}/grabs",
    b"/v1/sales/./{%b}/grabs",
    b"/v1/s%%61les/{%b}/grabs",
    b"/v1/sales/{%b}%%00/grabs",
    b"/v1/sales/{%b}%%2fgrabs",
    b"http://x/v1/sales/{%b}/grabs",
    b"http://[/v1/sales/{%b}/grabs",
    b"x:1/v1/sales/{%b}/grabs",
    b"/v1/sales/{%b}/orders/mine",
    b"/v1/sales/{%b}/tickets",
]
_EXTRAS = [
    b"X-Forwarded-For: 10.0.0.9",
    b"X-Forwarded-For: \xff, ::1, 10.0.0.9:80",
    b"Cookie: a=b",
    b"Origin: https://shop.example",
    b"Origin: null",
    b"Connection: close",
    b"connection: CLOSE",
    b"Connection: keep-alive",
    b"Connection: Keep-Alive, x",
    b"Connection: close, keep-alive",
    b"Connection:",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: x",
    b"Upgrade: websocket",
    b"Proxy-Connection: close",
    b"Keep-Alive: timeout=5",
    b"Expect: 100-continue",
    b"Expect: x",
    b"TE: trailers",
    b"Trailer: X",
    b"Content-Encoding: gzip",
    b"Content-Encoding: identity",
    b"Host: y",
    b"Content-Type: application/json",
    b"Content-Length: 15",
    b"Seckill-Ticket: x",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked",
    b"X: " + b"y" * 3000,
    b"X: " + b"y" * 9000,
    b"X: \x80\xff",
    b"X: a\x0bb",
    b"X: a\0b",
    b"X:\t \t",
    b"X : y",
    b": y",
    b"X",
    b"X: a\r\n b",
    b" X: y",
    b"\tX: y",
    b"X: a\nY: b",
    b"X: a\rY: b",
    b"\xff: y",
    b"X(y): z",
    *(b"\r\n".join([b"X%d: y" % n for n in range(count)]) for count in (59, 60, 61, 130)),
]
_LENGTHS = [b"0%d", b"+%d", b"-%d", b"%d ", b"\t%d\t", b"%d, %d", b"%d.0", b"0x%d", b"%d_0", b"x%d"]
_LENGTHS += [b"%d" + b"0" * 30]
_CHUNKED = [b"chunked", b"Chunked", b"gzip, chunked", b"chunked, chunked", b"chunked;x", b"x"]
_OTHERS = [
    Request(b"GET /v1/sales/{open} HTTP/1.1\r\nHost: x\r\n\r\n", frozenset({200})),
    Request(b"HEAD /v1/sales/{open} HTTP/1.1\r\nHost: x\r\n\r\n", frozenset({200})),
    Request(b"GET /last HTTP/1.0\r\n\r\n"),
    Request(b"GET /last HTTP/1.1\r\n\r\n"),
    Request(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
    Request(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    Request(b"GET / HTTP/3\r\nHost: x\r\n\r\n"),
    Request(b"GET /last\r\n\r\n"),
    Request(b"POST /v1/sales/" + b"x" * 9000 + b"/grabs HTTP/1.1\r\nHost: x\r\n\r\n"),
    Request(b"POST /v1/sales/nowhere/grabs HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
    Request(b"\r\n"),
    Request(b"\r\n\r\n"),
    Request(b"\n"),
    Request(b"\0"),
    Request(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50)),
    Request(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
]


def _grab(sale: str, shown: bytes, body: bytes = BODY) -> bytes:
    """Return a plain grab as ordinary clients send it."""
    lines = [
        b"POST /v1/sales/{%b}/grabs HTTP/1.1" % sale.encode(),
        b"Host: x",
        b"Seckill-Ticket: " + shown,
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join([*lines, b"", body])


@st.composite
def _certain(draw: st.DrawFn) -> Request:
    """Draw a request whose status is certain."""
    if draw(st.integers(0, 5)) == 5:
        return Request(LAST, frozenset({404}))
    sale = draw(st.sampled_from(SALES))
    shown = draw(st.sampled_from([ticket(sale, buyer) for buyer in range(BUYERS)] * 3 + _NOT_GOOD))
    if shown in _NOT_GOOD:
        return Request(_grab(sale, shown), frozenset({401}))
    if draw(st.integers(0, 5)) == 5:
        return Request(_grab(sale, shown, b'{"quantity": 0}'), frozenset({422}))
    return Request(_grab(sale, shown), frozenset(_STATUSES[sale]))


@st.composite
def _strange(draw: st.DrawFn) -> Request:
    """Draw a grab with anything unusual about it."""

    def sometimes(usual: bytes, unusual: list[bytes]) -> bytes:
        return draw(st.sampled_from(unusual)) if draw(st.integers(0, 3)) == 3 else usual

    sale = draw(st.sampled_from(SALES)) if draw(st.booleans()) else "open"
    good = [ticket(sale, buyer) for buyer in range(BUYERS)]
    shown = sometimes(draw(st.sampled_from(good)), _NOT_GOOD)
    body = sometimes(BODY, _BODIES)
    target = draw(st.sampled_from(_TARGETS)) % sale.encode()
    line = b" ".join([draw(st.sampled_from(_METHODS)), target, draw(st.sampled_from(_VERSIONS))])
    length, sent = b"Content-Length: %d" % len(body), body
    match draw(st.integers(0, 9)):
        case 7:
            pattern = draw(st.sampled_from(_LENGTHS))
            numbers = (len(body),) * pattern.count(b"%d")
            length = b"Content-Length: " + pattern % numbers
        case 8:
            length = b"Content-Length: %d" % max(0, len(body) + draw(st.integers(-3, 3)))
        case 9:
            length = b"Transfer-Encoding: " + draw(st.sampled_from(_CHUNKED))
            sent = draw(_chunks(body))
    headers = [
        b"Host: x",
        b"Seckill-Ticket: " + shown,
        b"Content-Type: " + sometimes(b"application/json", _TYPES),
        length,
        *draw(st.lists(st.sampled_from(_EXTRAS), max_size=2)),
    ]
    if draw(st.booleans()):
        headers = draw(st.permutations(headers))
    if draw(st.integers(0, 5)) == 5:
        del headers[draw(st.integers(0, len(headers) - 1))]
    if draw(st.integers(0, 3)) == 3:
        at = draw(st.integers(0, len(headers) - 1)) if headers else 0
        headers[at : at + 1] = [_odd(header, draw) for header in headers[at : at + 1]]
    end = b"\n" if draw(st.integers(0, 15)) == 15 else b"\r\n"
    return Request(end.join([line, *headers, b"", sent]))


def _odd(header: bytes, draw: st.DrawFn) -> bytes:
    """Return a header in another spelling."""
    name, colon, value = header.partition(b":")
    ways = [
        name.lower() + colon + value,
        name.upper() + colon + value.strip(),
        name + colon + b"\t" + value + b" \t",
        name + b" " + colon + value,
        name + colon + b"\r\n" + value,
        header + b"\r\n" + header,
        header + b"\r\n" + name.lower() + b": x",
        name.replace(b"-", b"_") + colon + value,
    ]
    return draw(st.sampled_from(ways))


@st.composite
def _chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """Draw a body in chunks, rightly or wrongly framed."""
    cut = draw(st.integers(0, len(body)))
    parts = [part for part in (body[:cut], body[cut:]) if part]
    size = draw(st.sampled_from([b"%x", b"%x", b"%X", b"00%x", b"%x;a=b", b"%x ", b"-%x", b"0x%x"]))
    chunks = b"".join(size % len(part) + b"\r\n" + part + b"\r\n" for part in parts)
    ends = [b"0\r\n\r\n"] * 4 + [b"0\r\nX: y\r\n\r\n", b"0\r\n", b"", b"0\n\n", b"0\r\n\r\n\r\n"]
    return chunks + draw(st.sampled_from(ends))


_spoils = st.builds(
    Spoil,
    at=st.integers(0, 30_000),
    how=st.sampled_from(["put", "lose", "flip", "double"]),
    size=st.integers(1, 127),
    put=st.sampled_from([b"\r\n", b" ", b"\n", b"\r", b"\0", b":", b"\xff", b"1", b"\t", b","]),
)
_requests = st.one_of(_certain(), _strange(), st.sampled_from(_OTHERS))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Draw a conversation."""
    kind = draw(st.sampled_from(["certain", "any", "any", "spoilt"]))
    requests = draw(
        st.lists(
            _certain() if kind == "certain" else _requests,
            min_size=1,
            max_size=draw(st.sampled_from([1, 2, 4, REQUESTS_MAX])),
        )
    )
    return Conversation(
        tuple(requests),
        tuple(draw(st.lists(_spoils, min_size=1, max_size=3)) if kind == "spoilt" else ()),
        tuple(draw(st.lists(st.integers(0, 30_000), max_size=6))),
        patient=draw(st.integers(0, 7)) > 0,
        waits=draw(st.integers(0, 7)) > 0,
        half_closes=draw(st.integers(0, 7)) == 7,
    )
