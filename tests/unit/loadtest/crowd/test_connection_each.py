"""A connection for each buyer, at servers that answer, reset, refuse, or say nothing."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from loadtest.crowd.connection_each import ConnectionEach
from loadtest.crowd.generator_processes import offer_each
from loadtest.crowd.grab_http import HttpForm, grab_bytes
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import NoAnswer, PlannedRequest
from ops.processes.ports import free_port
from seckill.errors import SeckillError, UserMistake

#: Nothing here takes so long, unless a request is lost.
PATIENT_S = 30.0
SOON_S = 0.2
ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nbusy"


class Buyers:
    """What came to a server."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.addresses: set[str] = set()
        #: How often a client has closed first.
        self.closed = 0


def answers(*pieces: bytes) -> Callable[[socket.socket, Buyers], None]:
    """Answer in these pieces, and wait until the client closes."""

    def serve(connection: socket.socket, buyers: Buyers) -> None:
        buyers.requests.append(connection.recv(1000))
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.01)  # so that they arrive one by one
        buyers.closed += connection.recv(1) == b""

    return serve


def closes_after(data: bytes) -> Callable[[socket.socket, Buyers], None]:
    def serve(connection: socket.socket, _buyers: Buyers) -> None:
        connection.recv(1000)
        connection.sendall(data)

    return serve


def resets(connection: socket.socket, _buyers: Buyers) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def echoes(connection: socket.socket, _buyers: Buyers) -> None:
    connection.sendall(b"HTTP/1.1 %b X\r\nContent-Length: 0\r\n\r\n" % connection.recv(1000))


@contextmanager
def serving(
    serve: Callable[[socket.socket, Buyers], None] | None, backlog: int = 100
) -> Iterator[tuple[tuple[str, int], Buyers]]:
    """Serve one connection after the other; with None accept none."""
    buyers = Buyers()
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:

        def accept() -> None:
            while True:
                try:
                    connection, (address, _) = server.accept()
                except OSError:  # shut down
                    return
                with connection:
                    buyers.addresses.add(address)
                    serve(connection, buyers)

        thread = threading.Thread(target=accept)
        if serve:
            thread.start()
        yield server.getsockname(), buyers
        server.shutdown(socket.SHUT_RDWR)
        if serve:
            thread.join()


def crowd(address: tuple[str, int], *payloads: bytes, patience_s: float = PATIENT_S) -> CrowdReport:
    requests = [PlannedRequest(n / 1000, payload) for n, payload in enumerate(payloads)]
    return ConnectionEach(address, patience_s).run(requests, 1.0, time.monotonic())


@pytest.mark.parametrize("cut", [0, 5, 40, len(ANSWER) - 5, len(ANSWER) - 1])
def test_each_buyer_connects_reads_the_answer_and_closes(cut: int) -> None:
    with serving(answers(*filter(None, (ANSWER[:cut], ANSWER[cut:])))) as (address, buyers):
        report = crowd(address, b"one", b"two", b"three")
    assert [request.status for request in report.requests] == [503, 503, 503]
    assert [request.retry_after_s for request in report.requests] == [3, 3, 3]
    assert all(r.due_s <= r.sent_s <= r.answered_s for r in report.requests)
    assert buyers.requests == [b"one", b"two", b"three"]
    assert (len(buyers.addresses), buyers.closed) == (3, 3)
    assert report.endings() == {"503": 3}


@pytest.mark.parametrize("serve", [resets, closes_after(b""), closes_after(ANSWER[:-1])])
def test_a_connection_that_is_closed_before_the_answer_is_a_reset(serve) -> None:
    with serving(serve) as (address, _):
        report = crowd(address, b"one", b"two")
    assert report.endings() == {"reset": 2}
    assert all(request.answered_s >= request.due_s for request in report.requests)
    assert report.soon_share() == 1


def test_where_no_server_is_every_connection_is_refused() -> None:
    report = crowd(("127.0.0.1", free_port()), b"one", b"two")
    assert report.endings() == {"refused": 2}
    assert report.soon_share() == 1


# With the shorter queue, the later ones do not even connect.
@pytest.mark.parametrize("backlog", [100, 0])
def test_who_has_no_answer_when_their_patience_is_over_gives_up(backlog: int) -> None:
    with serving(None, backlog) as (address, _):
        report = crowd(address, *[b"ping"] * 5, patience_s=SOON_S)
    assert report.endings() == {"gave up": 5}
    assert [request.answered_s for request in report.requests] == [0] * 5
    assert report.soon_share() == 0


def test_one_who_gives_up_does_not_end_the_run_for_others() -> None:
    served = iter([lambda *_: time.sleep(3 * SOON_S), answers(ANSWER)])
    with serving(lambda *each: next(served)(*each)) as (address, _):
        requests = [PlannedRequest(0, b"one"), PlannedRequest(5 * SOON_S, b"two")]
        generator = ConnectionEach(address, 2 * SOON_S)
        generator.run(requests, 1.0, time.monotonic())
    assert [request.ending for request in requests] == [NoAnswer.GAVE_UP, 503]


def test_what_the_generator_cannot_begin_makes_it_late() -> None:
    with serving(None) as (address, _):
        requests = [PlannedRequest(0, b"one"), PlannedRequest(0.01, b"two")]
        generator = ConnectionEach(address, SOON_S)
        generator._open_max = 1
        report = generator.run(requests, 1.0, time.monotonic())
    assert requests[1].sent_s >= SOON_S
    assert not report.valid


async def test_processes_share_the_requests() -> None:
    with serving(echoes) as ((host, port), _):
        requests = [PlannedRequest(n / 100, b"%d" % (202 + n)) for n in range(7)]
        report = await offer_each(
            f"http://{host}:{port}", requests, 0.1, patience_s=PATIENT_S, processes=2
        )
    assert [request.status for request in requests] == [*range(202, 209)]
    assert report.requests == requests
    assert report.cpu_notes


async def test_an_address_that_does_not_do_is_refused() -> None:
    with pytest.raises(UserMistake, match="--url"):
        await offer_each("https://127.0.0.1:1", [], 1, patience_s=1)
    with pytest.raises(SeckillError, match="cannot be reached"):
        await offer_each("http://no.such.host.invalid", [], 1, patience_s=1)


def test_a_grab_says_what_becomes_of_its_connection() -> None:
    kept, closed, old = (grab_bytes("demo", "k~1", form) for form in HttpForm)
    assert kept.startswith(b"POST /v1/sales/demo/grabs HTTP/1.1\r\n")
    assert b"Connection" not in kept + old
    assert b"\r\nConnection: close\r\n" in closed
    assert old == kept.replace(b"HTTP/1.1", b"HTTP/1.0")
