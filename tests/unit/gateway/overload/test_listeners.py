"""A queue is late when its head has waited too long; the port is closed until that is served."""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio import Protocol
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from prometheus_client import Counter

from gateway.overload.listeners import (
    ACCEPT_WAIT_MAX_S,
    FEW,
    LOOK_S,
    OVERLOADED_S,
    OVERLOADED_WAIT_MAX_S,
    TAKEN_S,
    AcceptQueue,
    Listeners,
)
from seckill import metrics

Address = tuple[str, int]
LATE_S = ACCEPT_WAIT_MAX_S + LOOK_S


@pytest.fixture
def queue() -> AcceptQueue:
    return AcceptQueue()


def overloaded(queue: AcceptQueue, per_s: int) -> float:
    """Close the port for a first overload at which so many are accepted, and open it again."""
    queue.is_late(0.0, 10_000)
    queue.accepted += per_s
    assert queue.room(1.0) == 0
    queue.opened(1.0)
    return 1.0


def test_a_head_that_is_not_accepted_makes_the_queue_late(queue: AcceptQueue) -> None:
    moments = 0.0, ACCEPT_WAIT_MAX_S, LATE_S, LATE_S + LOOK_S
    looks = [queue.is_late(now, FEW + 1) for now in moments]
    assert looks == [False, False, False, True]


def test_a_long_queue_that_moves_on_is_not_late(queue: AcceptQueue) -> None:
    for n in range(100):
        assert not queue.is_late(n * LOOK_S, 1_000)
        queue.accepted += 200


def test_after_a_standstill_the_queue_has_a_turn_first(queue: AcceptQueue) -> None:
    assert not queue.is_late(0.0, 300)
    assert not queue.is_late(10.0, 300)  # nothing turned meanwhile
    queue.accepted += 300
    assert not queue.is_late(10.0 + LOOK_S, 300)


def test_an_empty_queue_is_not_late_though_a_connection_was_never_counted(
    queue: AcceptQueue,
) -> None:
    assert not queue.is_late(0.0, 1)  # it is aborted before it is accepted
    assert [queue.is_late(now, 0) for now in (1.0, 2.0, 3.0)] == [False] * 3


def test_it_is_busy_while_connections_wait(queue: AcceptQueue) -> None:
    seen = []
    for length in (0, 2, 1, 0):
        queue.is_late(0.0, length)
        seen.append(queue.is_busy(0.0))
    assert seen == [False, True, True, False]


def test_it_is_busy_while_an_overload_lasts(queue: AcceptQueue) -> None:
    now = overloaded(queue, per_s=1_000)
    assert queue.is_busy(now)
    assert not queue.is_busy(now + OVERLOADED_S)


def test_while_the_overload_lasts_it_is_late_by_what_waits(queue: AcceptQueue) -> None:
    now, most = overloaded(queue, per_s=5_000), round(5_000 * OVERLOADED_WAIT_MAX_S)
    assert not queue.is_late(now, most)
    assert queue.is_late(now, most + 1)
    assert not queue.is_late(now + OVERLOADED_S, most + 1)


def test_as_many_have_room_as_were_accepted_of_late(queue: AcceptQueue) -> None:
    now = overloaded(queue, per_s=5_000)
    queue.is_late(now, 1_000)
    queue.accepted += 500  # half as many a second as before, of what was taken and then accepted
    assert queue.room(now + 0.2) == round(2_500 * TAKEN_S)


def test_a_new_overload_begins_with_an_empty_queue(queue: AcceptQueue) -> None:
    now = overloaded(queue, per_s=1_000) + OVERLOADED_S
    queue.is_late(now, 1_000)
    queue.accepted += 100
    assert queue.room(now + 0.1) == 0


def test_a_few_are_never_late_however_few_were_accepted_of_late(queue: AcceptQueue) -> None:
    now = overloaded(queue, per_s=1)
    assert [queue.is_late(now + n, FEW) for n in (0.0, 1.0, 2.0, 3.0)] == [False] * 4
    queue.opened(now)
    assert queue.room(now) == FEW


class Greeting(Protocol):
    """Sends a byte to whoever is let in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"1")


@pytest.fixture
async def listeners(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listeners]:
    listeners = Listeners(Greeting, "127.0.0.1", 0, tls=None, prepare=lambda _: None)
    monkeypatch.setattr(listeners._queue, "room", lambda _now: 1_000)
    await listeners.open()
    yield listeners
    await listeners.close()


@pytest.fixture
def address(listeners: Listeners) -> Address:
    host, port = listeners._port._bound[0].getsockname()
    return host, port


def counted(counter: Counter) -> float:
    [metric] = counter.collect()
    return metric.samples[0].value


def connect(address: Address, stack: ExitStack, count: int = 1) -> list[socket.socket]:
    return [stack.enter_context(socket.create_connection(address)) for _ in range(count)]


async def greeting(client: socket.socket) -> bytes:
    client.setblocking(False)
    return await asyncio.get_running_loop().sock_recv(client, 1)


async def test_while_it_serves_who_waits_the_port_is_closed(
    listeners: Listeners, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = counted(metrics.PORT_CLOSED)
    with ExitStack() as stack:
        clients = connect(address, stack, 8)
        refusing = asyncio.create_task(listeners._refuse())
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            connect(address, stack)
        await refusing
        clients += connect(address, stack)
        assert {await greeting(client) for client in clients} == {b"1"}
    assert counted(metrics.PORT_CLOSED) > seconds


async def test_who_would_wait_too_long_is_reset(
    listeners: Listeners, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    were_reset = counted(metrics.RESET)
    monkeypatch.setattr(listeners._queue, "room", lambda _now: 0)
    with ExitStack() as stack:
        clients = connect(address, stack, 5)
        assert listeners.waiting() == 5
        await listeners._refuse()
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    assert counted(metrics.RESET) - were_reset == 5


async def test_no_other_program_takes_the_port_while_it_is_closed(
    listeners: Listeners, address: Address
) -> None:
    refusing = asyncio.create_task(listeners._refuse())
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="in use") as raised, socket.socket() as other:
        other.bind(address)
    assert raised.value.errno == errno.EADDRINUSE
    await refusing


async def test_a_port_that_cannot_be_opened_again_is_tried_again(
    listeners: Listeners,
    address: Address,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    opens, tries = listeners._port.open, []

    async def open_third() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        await opens()

    monkeypatch.setattr(listeners._port, "open", open_third)
    await listeners._refuse()
    assert len(tries) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "cannot listen again, connections are refused: [Errno 24] Too many open files"
    ]
    with ExitStack() as stack:
        assert await greeting(connect(address, stack)[0]) == b"1"


async def test_a_queue_that_is_late_closes_the_port(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()

    async def refuse() -> None:
        refused.set()

    monkeypatch.setattr(listeners, "_refuse", refuse)
    monkeypatch.setattr(listeners._queue, "is_late", lambda _now, _waiting: True)
    await refused.wait()


async def test_when_it_closes_who_waits_is_served(listeners: Listeners, address: Address) -> None:
    with ExitStack() as stack:
        clients = connect(address, stack, 9)
        await listeners.close()
        assert {await greeting(client) for client in clients} == {b"1"}
        with pytest.raises(ConnectionRefusedError):
            connect(address, stack)
