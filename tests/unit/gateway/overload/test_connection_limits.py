"""Refused connections rest, and are read again a few at a time."""

from __future__ import annotations

import asyncio
import json
from unittest.mock import Mock

import pytest

from gateway.overload import connection_limits
from gateway.overload.aiohttp_protocol import is_mistake
from gateway.overload.connection_limits import MISTAKES_MAX, OVERLOADED, ConnectionLimits


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


async def test_clients_that_are_wrong_rest_only_when_there_are_many_at_a_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    limits, transports = (
        ConnectionLimits(99),
        [Mock(asyncio.Transport) for _ in range(MISTAKES_MAX + 9)],
    )
    for second in range(3):
        now = 100.0 + second
        for transport in transports[:MISTAKES_MAX]:
            assert not limits.note_mistake(transport)
    for transport in transports[MISTAKES_MAX:]:
        assert limits.note_mistake(transport)
    paused = [transport.pause_reading.called for transport in transports]
    assert paused == [False] * MISTAKES_MAX + [True] * (len(transports) - MISTAKES_MAX)


async def test_who_sent_ahead_and_was_wrong_each_time_rests_for_each(monkeypatch):
    monkeypatch.setattr(connection_limits, "REST_S", 0.0)
    monkeypatch.setattr(connection_limits, "WAKES_MAX", 1)
    monkeypatch.setattr(connection_limits, "WAKE_S", 0.0)
    limits, transport = ConnectionLimits(9), Mock(asyncio.Transport)
    transport.is_closing.return_value = False
    other = Mock(asyncio.Transport)
    other.is_closing.return_value = False
    read: list[str] = []
    transport.resume_reading.side_effect = lambda: read.append("ahead")
    other.resume_reading.side_effect = lambda: read.append("other")
    for each in (transport, transport, transport, other):
        limits.rest(each)
    for _ in range(50):
        await asyncio.sleep(0)
    assert read == ["other", "ahead"]


@pytest.mark.parametrize(("status", "expected"), [(401, True), (422, True), (202, False)])
def test_what_a_client_did_wrong_is_its_mistake(status: int, expected: bool) -> None:
    assert is_mistake(status) == expected


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_what_was_decided_is_no_mistake(status: int) -> None:
    assert not is_mistake(status)


def test_the_prebuilt_refusal_is_a_whole_answer() -> None:
    head, _, body = OVERLOADED.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert f"Content-Length: {len(body)}" in lines
    assert "Retry-After: 1" in lines
    assert json.loads(body)["code"] == "overloaded"
