"""A connection without a loop: its turns, its refusals, and a transport that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.grabs.connection import AHEAD_MAX, Connection, ConnectionFactory
from gateway.grabs.responses import RawResponses
from gateway.grabs.sale_views import EncodedView
from gateway.overload.connection_limits import OVERLOADED
from gateway.overload.lateness import LATE_S
from gateway.overload.loop_turns import TURN_MAX, LoopTurns

GRAB = (
    b"POST /v1/sales/spring/grabs HTTP/1.1\r\nHost: x\r\nSeckill-Ticket: k~1~ann~00\r\n"
    b'Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{"quantity": 1}'
)


class Transport:
    """Keeps what is written; raises as uvloop does when it is told anything after its end."""

    def __init__(self) -> None:
        self.closing = False
        self.written: list[bytes] = []

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        assert not self.closing

    def resume_reading(self) -> None:
        assert not self.closing, "uvloop raises here"


class Overflow:
    """Keeps the connections whose grabs wait."""

    def __init__(self) -> None:
        self.waiting: list[Connection] = []

    def put(self, connection: Connection) -> None:
        self.waiting.append(connection)

    def discard(self, connection: Connection) -> None:
        if connection in self.waiting:
            self.waiting.remove(connection)


class Aiohttp:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.received, self.idle = b"", True
        #: What was said of each piece, in the loop's time.
        self.waited_since = 0.0
        self.waits: list[float] = []

    def connection_made(self, _: Transport) -> None:
        pass

    def extend_keepalive(self) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.waits.append(self.waited_since)


class Bench:
    """A connection, and all that the connections of a process share."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.waited_s = 0.0
        self.begun = 0
        self.in_flight = SimpleNamespace(full=False)
        self.overflow = Overflow()
        self.responses = RawResponses({})
        self.views: dict[str, EncodedView] = {}
        self.aiohttp = Aiohttp()
        self.now = 1.0
        loop = SimpleNamespace(time=lambda: self.now, call_soon=self.calls.append)
        self.shared = SimpleNamespace(
            loop=loop,
            loop_turns=LoopTurns(cast(asyncio.AbstractEventLoop, loop)),
            limits=SimpleNamespace(leave=lambda: None, leaving=0),
            overflow=self.overflow,
            lateness=SimpleNamespace(of=lambda _: self.waited_s),
            connections=set(),
            enter=lambda *_: None,
            sales=SimpleNamespace(public=lambda _: "a sale"),
            pipeline=SimpleNamespace(in_flight=self.in_flight, begin_grab=self._begin_grab),
            takes_grabs=True,
            draining=False,
            cors=False,
            responses_to=lambda *_, **__: self.responses,
            views=SimpleNamespace(peek=self.views.get),
            make_aiohttp=lambda: self.aiohttp,
            stopping=asyncio.Event(),
        )
        self.connection, self.transport = self.connect()

    def connect(self) -> tuple[Connection, Transport]:
        connection = Connection(cast(ConnectionFactory, self.shared))
        transport = Transport()
        connection.connection_made(cast(Any, transport))
        return connection, transport

    def _begin_grab(self, *_: Any, **__: Any) -> None:
        self.begun += 1  # refused at once: none is pending

    def take_turn(self) -> None:
        calls, self.calls[:] = [*self.calls], []
        for call in calls:
            call()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_client_that_left_while_its_turn_was_due_costs_the_transport_no_call(
    bench: Bench,
) -> None:
    bench.connection.pause_writing()  # so that what comes waits
    bench.connection.data_received(b"x" * (AHEAD_MAX + 1))
    bench.transport.closing = True
    bench.connection.connection_lost(None)
    bench.connection.resume_writing()


def test_who_sends_ahead_has_one_turn_after_the_other(bench: Bench) -> None:
    """C20: two clients that sent ahead, refusals and all, stopped all others for seconds."""
    bench.connection.data_received(GRAB * (2 * TURN_MAX + 1))
    served = [bench.begun]
    bench.connection.data_received(GRAB)  # of the same turn
    while bench.calls:
        bench.take_turn()
        served.append(bench.begun)
    assert served == [TURN_MAX, 2 * TURN_MAX, 2 * TURN_MAX + 2]


def test_a_grab_without_room_waits_unparsed_and_goes_on_when_there_is_room(bench: Bench) -> None:
    bench.in_flight.full = True
    bench.connection.data_received(GRAB)
    bench.connection.data_received(GRAB)  # sent ahead, it waits behind the first
    assert (bench.begun, bench.transport.written) == (0, [])
    assert bench.overflow.waiting == [bench.connection]
    bench.in_flight.full = False
    bench.connection.go_on()
    assert bench.begun == 2


def test_a_grab_that_waited_too_long_is_refused_and_the_next_one_waits(bench: Bench) -> None:
    bench.in_flight.full = True
    bench.connection.data_received(GRAB)
    bench.connection.data_received(GRAB)
    bench.connection.turn_away()
    assert (bench.begun, bench.transport.written) == (0, [OVERLOADED])
    assert bench.overflow.waiting == [bench.connection] * 2


def test_a_client_that_leaves_waits_no_more(bench: Bench) -> None:
    bench.in_flight.full = True
    bench.connection.data_received(GRAB)
    bench.connection.connection_lost(None)
    assert bench.overflow.waiting == []


@pytest.mark.parametrize(("waited_s", "begun"), [(LATE_S, 1), (LATE_S + 0.004, 0)])
def test_what_has_waited_too_long_to_be_read_is_refused(
    bench: Bench, waited_s: float, begun: int
) -> None:
    bench.waited_s = waited_s
    bench.connection.data_received(GRAB)
    assert bench.begun == begun
    assert bench.transport.written == ([] if begun else [OVERLOADED])


VIEW = b"GET /v1/sales/spring HTTP/1.1\r\nHost: x\r\n\r\n"
COPY = VIEW.replace(b"Host: x", b'Host: x\r\nIf-None-Match: "t"')


def test_a_sale_whose_bytes_are_known_is_answered_without_aiohttp_in_its_turn(bench: Bench) -> None:
    bench.views["spring"] = EncodedView(0, b"{}", '"t"')
    bench.connection.data_received(VIEW + GRAB + COPY + VIEW)
    first, copy, last = bench.transport.written
    assert bench.begun == 1
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n{}")
    assert b"\r\nContent-Length: 2\r\n" in first
    assert first != last, "each has a Request-Id of its own"
    assert copy.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert copy.endswith(b"\r\n\r\n")
    for answer in (first, copy):
        assert b'\r\nETag: "t"\r\n' in answer
        assert b"\r\nCache-Control: public, max-age=1\r\n" in answer
    assert bench.aiohttp.received == b""


@pytest.mark.parametrize(
    "request_",
    [
        VIEW.replace(b"spring", b"other"),
        VIEW.replace(b"spring", b"spring?x=1"),
        VIEW.replace(b"Host: x\r\n", b""),
        VIEW.replace(b"Host: x", b"Host: x\r\nContent-Length: 3") + b"abc",
        VIEW.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c"),
        VIEW.replace(b"Host: x", b"Host: x\r\nIf-None-Match: a\r\nIf-None-Match: b"),
        VIEW.replace(b"GET", b"HEAD"),
        VIEW[:-2],
    ],
)
def test_any_other_request_for_a_sale_is_aiohttps(bench: Bench, request_: bytes) -> None:
    bench.views["spring"] = EncodedView(0, b"{}", '"t"')
    bench.connection.data_received(request_)
    assert (bench.transport.written, bench.aiohttp.received) == ([], request_)


def test_the_answer_is_the_last_where_the_client_wants_it_so(bench: Bench) -> None:
    bench.views["spring"] = EncodedView(0, b"{}", '"t"')
    bench.connection.data_received(VIEW.replace(b"Host: x", b"Host: x\r\nConnection: close"))
    assert len(bench.transport.written) == 1
    assert bench.transport.closing


OTHER = b"GET /v1/sales HTTP/1.1\r\nHost: x\r\n\r\n"


def test_requests_for_aiohttp_take_turns_and_grabs_go_between_them(bench: Bench) -> None:
    others = [bench.connect()[0] for _ in range(2 * TURN_MAX + 1)]
    for other in others:
        other.data_received(OTHER)
    assert bench.aiohttp.received == OTHER * TURN_MAX
    bench.connection.data_received(GRAB)
    assert bench.begun == 1, "it waits for none of them"
    bench.now = 2.0
    bench.take_turn()
    assert bench.aiohttp.received == OTHER * TURN_MAX * 2
    bench.take_turn()
    assert bench.aiohttp.received == OTHER * len(others)
    assert bench.aiohttp.waits == [0.0] * TURN_MAX + [1.0] * (TURN_MAX + 1)


def test_what_waits_for_a_turn_is_neither_idle_nor_swept_away(bench: Bench) -> None:
    for _ in range(TURN_MAX):
        bench.connect()[0].data_received(OTHER)
    bench.connection.data_received(OTHER)
    bench.connection.sweep(bench.now + 3600)
    bench.connection.close_if_idle()
    assert bench.connection.idle_since is None
    assert not bench.transport.closing
    assert bench.aiohttp.received == OTHER * TURN_MAX


def test_who_leaves_before_its_turn_takes_none(bench: Bench) -> None:
    connected = [bench.connect() for _ in range(TURN_MAX + 3)]
    for connection, _ in connected:
        connection.data_received(OTHER)
    connected[TURN_MAX][0].connection_lost(None)
    connected[TURN_MAX + 1][1].closing = True
    bench.take_turn()
    assert bench.aiohttp.received == OTHER * (TURN_MAX + 1)


def test_a_stop_lets_all_that_wait_go_on(bench: Bench) -> None:
    for _ in range(3 * TURN_MAX):
        bench.connect()[0].data_received(OTHER)
    bench.shared.draining = True
    bench.shared.loop_turns.end()
    assert bench.aiohttp.received == OTHER * TURN_MAX * 3
