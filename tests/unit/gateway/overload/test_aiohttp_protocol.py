"""What the door takes for one whole request, what it leaves to aiohttp, and who rests how long."""

from __future__ import annotations

import asyncio
import json
from typing import cast
from unittest.mock import Mock

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.overload import aiohttp_protocol
from gateway.overload.aiohttp_protocol import OVERLOADED, ConnectionLimits, is_one_request
from gateway.overload.concurrency_limit import ConcurrencyLimit

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


def test_the_prebuilt_refusal_is_a_whole_answer() -> None:
    head, _, body = OVERLOADED.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert f"Content-Length: {len(body)}" in lines
    assert "Retry-After: 1" in lines
    assert json.loads(body)["code"] == "overloaded"


def test_aiohttp_still_has_what_the_door_builds_on() -> None:
    """The door counts answers in `log_access`, reads three attributes of its base and sets one."""
    overridden = ("connection_made", "connection_lost", "data_received")
    for name in (*overridden, "log_access", "close"):
        assert callable(getattr(web.RequestHandler, name))
    used = {"_messages", "_request_count", "_keepalive_timeout", "_next_keepalive_close_time"}
    assert used <= set(web.RequestHandler.__slots__)


# Refused connections.


async def rested(monkeypatch: pytest.MonkeyPatch, *, wake_s: float, turns: int) -> list[int]:
    """Let five connections rest for no time, two to be read again at a time; tell who was."""
    monkeypatch.setattr(aiohttp_protocol, "REST_S", 0.0)
    monkeypatch.setattr(aiohttp_protocol, "WAKES_MAX", 2)
    monkeypatch.setattr(aiohttp_protocol, "WAKE_S", wake_s)
    limit = ConcurrencyLimit(1, 1.0)
    server = cast(web.Server, Mock())
    entrance = ConnectionLimits(
        server, grabs=limit, others=limit, connections_max=9, cors=False, keepalive_timeout=1.0
    )
    read: list[int] = []
    for n in range(5):
        transport = Mock(asyncio.Transport)
        transport.is_closing.return_value = n == 1
        transport.resume_reading.side_effect = lambda n=n: read.append(n)
        entrance.rest(transport)
    for _ in range(turns):
        await asyncio.sleep(0)
    return read


async def test_refused_connections_are_read_again_a_few_at_a_time(monkeypatch):
    assert await rested(monkeypatch, wake_s=60.0, turns=50) == [0]


async def test_all_that_rest_are_read_again_in_their_order_but_who_left(monkeypatch):
    assert await rested(monkeypatch, wake_s=0.0, turns=50) == [0, 2, 3, 4]
