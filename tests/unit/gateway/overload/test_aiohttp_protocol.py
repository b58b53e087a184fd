"""What counts as one whole request, which may be refused unparsed, and what is left to aiohttp."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.overload.aiohttp_protocol import AiohttpProtocol
from gateway.overload.concurrency_limit import ConcurrencyLimit
from gateway.overload.connection_limits import OVERLOADED, ConnectionLimits, is_one_request

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


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.reads = b"", True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def _never(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError


@pytest.mark.parametrize(("waited_s", "is_refused"), [(0.4, False), (0.6, True)])
async def test_what_has_waited_too_long_for_its_turn_is_refused(
    waited_s: float, is_refused: bool
) -> None:
    limit, transport = ConcurrencyLimit(64, 0.05), Transport()
    protocol = AiohttpProtocol(web.Server(_never), ConnectionLimits(9), grabs=limit, others=limit)
    protocol.connection_made(transport)
    now = asyncio.get_running_loop().time()
    protocol.waited_since = now - waited_s
    protocol.data_received(POLL)
    protocol.connection_lost(None)  # before a handler begins
    assert transport.written == (OVERLOADED if is_refused else b"")
    assert transport.reads is not is_refused
    assert protocol.came_at == (0.0 if is_refused else now - waited_s)
    assert protocol.waited_since == 0.0, "what comes next has not waited yet"
