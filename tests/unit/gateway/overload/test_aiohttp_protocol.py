"""What counts as one whole request, which may be refused unparsed, and what is left to aiohttp."""

from __future__ import annotations

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.overload.connection_limits import is_one_request

GRAB = b"POST /v1/sales/s/grabs HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n" + b"x" * 15
POLL = b"GET /v1/orders/x HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [GRAB, POLL, GRAB.replace(b"Content-Length", b"content-LENGTH"), GRAB.replace(b": ", b":")],
)
def test_a_whole_request_is_one(data: bytes) -> None:
    assert is_one_request(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GRAB[:-1],
        GRAB + b"x",
        GRAB + GRAB,
        POLL + POLL,
        POLL[:-1],
        GRAB[20:],
        b"x" * 15,
        GRAB.replace(b"15", b"1e1"),
        GRAB.replace(b"15", b"-5"),
        GRAB[:-15].replace(b"15", b"1000000"),
        GRAB[:-15].replace(b"15", b"0000015"),
        GRAB[:-15].replace(b"Content-Length:", b"Content-Length :"),
        GRAB[:-15].replace(b"Content-Length: 15", b"Transfer-Encoding : chunked"),
        GRAB.replace(b"15", b"15, 15"),
        GRAB.replace(b"Content-Length: 15", b"Content-Length: 15\r\nContent-Length: 15"),
        GRAB.replace(b"Content-Length: 15", b"Transfer-Encoding: chunked\r\nContent-Length: 15"),
        GRAB.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GRAB.replace(b"/v1/", b"/v2/"),
    ],
)
def test_anything_else_is_not(data: bytes) -> None:
    assert not is_one_request(data)


@pytest.mark.parametrize("length", [b"1000000", b"0000015", b"15, 15", b"15\r\nContent-Length: 15"])
def test_a_head_whose_body_is_still_to_come_is_not(length: bytes) -> None:
    """Were it refused, its body would be taken for the next request."""
    assert not is_one_request(GRAB[:-15].replace(b"15", length))


@given(st.integers(0, len(GRAB) - 1))
def test_no_part_of_a_request_is_one(end: int) -> None:
    assert not is_one_request(GRAB[:end])


def test_aiohttp_still_has_what_the_protocol_builds_on() -> None:
    """It counts answers in `log_access`, reads three attributes of its base and sets one."""
    overridden = ("connection_made", "connection_lost", "data_received")
    for name in (*overridden, "log_access", "close"):
        assert callable(getattr(web.RequestHandler, name))
    used = {"_messages", "_request_count", "_keepalive_timeout", "_next_keepalive_close_time"}
    assert used <= set(web.RequestHandler.__slots__)
