"""Refused connections rest, and are read again a few at a time."""

from __future__ import annotations

import asyncio
import json
from unittest.mock import Mock

import pytest

from gateway.overload import connection_limits
from gateway.overload.connection_limits import OVERLOADED, ConnectionLimits


async def rested(monkeypatch: pytest.MonkeyPatch, *, wake_s: float, turns: int) -> list[int]:
    """Let five connections rest for no time, two to be read again at a time; return which were."""
    monkeypatch.setattr(connection_limits, "REST_S", 0.0)
    monkeypatch.setattr(connection_limits, "WAKES_MAX", 2)
    monkeypatch.setattr(connection_limits, "WAKE_S", wake_s)
    limits = ConnectionLimits(9)
    read: list[int] = []
    for n in range(5):
        transport = Mock(asyncio.Transport)
        transport.is_closing.return_value = n == 1
        transport.resume_reading.side_effect = lambda n=n: read.append(n)
        limits.rest(transport)
    for _ in range(turns):
        await asyncio.sleep(0)
    return read


async def test_refused_connections_are_read_again_a_few_at_a_time(monkeypatch):
    assert await rested(monkeypatch, wake_s=60.0, turns=50) == [0]


async def test_all_that_rest_are_read_again_in_their_order_but_who_left(monkeypatch):
    assert await rested(monkeypatch, wake_s=0.0, turns=50) == [0, 2, 3, 4]


def test_the_prebuilt_refusal_is_a_whole_answer() -> None:
    head, _, body = OVERLOADED.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert f"Content-Length: {len(body)}" in lines
    assert "Retry-After: 1" in lines
    assert json.loads(body)["code"] == "overloaded"
