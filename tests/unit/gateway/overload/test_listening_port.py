"""A port is taken at all addresses of its host that this machine has, or not at all."""

from __future__ import annotations

import errno
import socket
from asyncio import Protocol
from collections.abc import AsyncIterator

import pytest

from gateway.overload import listening_port
from gateway.overload.listening_port import ListeningPort

#: IPv6 is off on some machines; the local addresses of IPv4 are all there.
HOST = "127.0.0.1"


@pytest.fixture
async def port() -> AsyncIterator[ListeningPort]:
    port = ListeningPort(Protocol, tls=None, prepare=lambda _: None)
    yield port
    port.close(most=0)
    port.release()


async def test_it_is_open_only_between_open_and_close(port: ListeningPort) -> None:
    await port.bind(HOST, 0)
    address = port._bound[0].getsockname()

    def connect() -> int:
        with socket.socket() as client:
            return client.connect_ex(address)

    assert connect() == errno.ECONNREFUSED
    await port.open()
    assert connect() == 0
    port.close(most=0)
    assert connect() == errno.ECONNREFUSED
    await port.open()
    assert connect() == 0


async def test_a_family_that_the_machine_lacks_is_left_out(
    port: ListeningPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_port, "_has_family", lambda family: family == socket.AF_INET)
    await port.bind("", 0)
    assert [bound.family for bound in port._bound] == [socket.AF_INET]


async def test_without_any_family_of_the_host_it_fails(
    port: ListeningPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_port, "_has_family", lambda _family: False)
    with pytest.raises(OSError, match="not supported"):
        await port.bind(HOST, 0)


async def test_a_port_that_is_taken_is_not_taken_in_part(port: ListeningPort) -> None:
    with socket.create_server((HOST, 0)) as other, pytest.raises(OSError, match="in use"):
        await port.bind(HOST, other.getsockname()[1])
    assert port._bound == []
