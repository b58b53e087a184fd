"""A crowd in which each buyer has a connection of their own: connect, grab, read the answer, close.

As in `generator.py` the loop is open, and each latency counts from the intended moment. A buyer
whose patience is over closes, and is counted as `gave up`. What the generator could not begin in
time makes it late (`CrowdReport.late_ms`): its own queue is not the gateway's.

Plain sockets and epoll: most of what a connection costs is then the kernel's
(`python -m loadtest.crowd.ceiling --connection-each`).
"""

from __future__ import annotations

import ipaddress
import itertools
import resource
import time
from collections import deque
from collections.abc import Iterator, Sequence
from errno import EINPROGRESS
from os import strerror
from select import EPOLLIN, EPOLLOUT, epoll
from socket import AF_INET, IPPROTO_IP, SOCK_NONBLOCK, SOCK_STREAM, SocketType

from loadtest.crowd.generator import CPU_NOTE_S
from loadtest.crowd.grab_http import read_head
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import NoAnswer, PlannedRequest

#: Buyers who begin before answers are looked at again: some milliseconds at most.
BEGUN_AT_ONCE = 64
EVENTS_AT_ONCE = 256
#: More than any answer to a grab has.
RECEIVE_MAX = 16_384
#: Over loopback buyers come from so many addresses: one has only 28,000 ports.
SOURCES = [f"127.0.0.{n}" for n in range(2, 102)]
#: In linux/in.h: the kernel chooses the port when it knows the other end, so that connections to
#: different ends may share one.
IP_BIND_ADDRESS_NO_PORT = 24
#: Open files that are not connections.
FILES_RESERVED = 100


class _Buyer:
    """A request and its connection."""

    __slots__ = ("received", "request", "socket")

    # The base class of socket.socket has all that is needed, in half the time.
    def __init__(self, request: PlannedRequest, socket: SocketType) -> None:
        self.request, self.socket = request, socket
        #: The beginning of the answer; None while the request is not sent.
        self.received: bytes | None = b""


class ConnectionEach:
    """Opens a connection for each request when it is due."""

    def __init__(self, address: tuple[str, int], patience_s: float) -> None:
        self._address, self._patience_s = address, patience_s
        local = ipaddress.ip_address(address[0]).is_loopback
        self._sources: Iterator[tuple[str, int]] | None = None
        if local:
            self._sources = itertools.cycle([(source, 0) for source in SOURCES])
        self._epoll = epoll()
        self._open: dict[int, _Buyer] = {}
        #: In the order of their moments; those who have their answer leave when it is their turn.
        self._patient: deque[_Buyer] = deque()
        self._open_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_RESERVED
        self._start = 0.0

    def run(self, requests: Sequence[PlannedRequest], seconds: float, start: float) -> CrowdReport:
        """Begin each request at its moment after `start` (of the monotonic clock); report on all.

        The requests are in the order of their moments.
        """
        report, self._start = CrowdReport(seconds, list(requests)), start
        begun, count, note_s = 0, len(requests), 0.0
        while begun < count or self._open:
            now_s = self._now_s()
            if now_s >= note_s and begun < count:
                report.cpu_notes.append((now_s, time.process_time()))
                note_s = now_s + CPU_NOTE_S
            last = min(count, begun + BEGUN_AT_ONCE)
            while begun < last and requests[begun].due_s <= now_s:
                if len(self._open) >= self._open_max:
                    break  # late, and the run says so
                self._begin(requests[begun])
                begun += 1
            self._give_up(self._now_s() - self._patience_s)
            wakes_s = [requests[begun].due_s] if begun < count else []
            if self._patient:
                wakes_s.append(self._patient[0].request.due_s + self._patience_s)
            wait_s = max(0.0, min(wakes_s, default=0.0) - self._now_s())
            for fd, _ in self._epoll.poll(wait_s, EVENTS_AT_ONCE):
                self._advance(self._open[fd])
        self._epoll.close()
        return report

    def _now_s(self) -> float:
        return time.monotonic() - self._start

    def _begin(self, request: PlannedRequest) -> None:
        request.sent_s = self._now_s()
        socket = SocketType(AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
        if self._sources:
            socket.setsockopt(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            socket.bind(next(self._sources))
        buyer, fd = _Buyer(request, socket), socket.fileno()
        self._open[fd] = buyer
        self._patient.append(buyer)
        try:
            if (error := socket.connect_ex(self._address)) not in (0, EINPROGRESS):
                raise OSError(error, strerror(error))  # is of the subclass for the number
            # Over loopback the handshake is mostly done by now.
            socket.send(request.payload)
            self._epoll.register(fd, EPOLLIN)
        except BlockingIOError:
            self._epoll.register(fd, EPOLLOUT)
            buyer.received = None
        except ConnectionError as error:
            self._fail(buyer, error)

    def _advance(self, buyer: _Buyer) -> None:
        """Send what is to be sent, or receive; what epoll reports is found out by that."""
        request, socket = buyer.request, buyer.socket
        try:
            if buyer.received is None:
                socket.send(request.payload)
                self._epoll.modify(socket.fileno(), EPOLLIN)
                buyer.received = b""
                return
            if not (data := socket.recv(RECEIVE_MAX)):
                raise ConnectionResetError
        except BlockingIOError:
            return
        except ConnectionError as error:
            self._fail(buyer, error)
            return
        buyer.received += data
        head, end, body = buyer.received.partition(b"\r\n\r\n")
        if not end:
            return
        status, length, retry_after_s = read_head(head)
        if len(body) >= length:
            request.status, request.retry_after_s = status, retry_after_s
            request.answered_s = self._now_s()
            self._close(buyer)

    def _fail(self, buyer: _Buyer, error: ConnectionError) -> None:
        refused = isinstance(error, ConnectionRefusedError)
        buyer.request.no_answer = NoAnswer.REFUSED if refused else NoAnswer.RESET
        buyer.request.answered_s = self._now_s()
        self._close(buyer)

    def _give_up(self, due_s: float) -> None:
        """Close for the buyers who were due before then, and have waited ever since."""
        patient = self._patient
        while patient and (patient[0].request.answered_s or patient[0].request.due_s <= due_s):
            buyer = patient.popleft()
            if not buyer.request.answered_s:
                buyer.request.no_answer = NoAnswer.GAVE_UP
                self._close(buyer)

    def _close(self, buyer: _Buyer) -> None:
        # Takes it out of the epoll, too.
        del self._open[buyer.socket.fileno()]
        buyer.socket.close()
