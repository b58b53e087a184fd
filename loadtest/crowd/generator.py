"""An open-loop crowd: requests go out when they are due, however slow the answers are.

A closed loop waits for a slow server and so hides that the server is slow. Here each latency counts
from the moment at which the request was *intended*. What could not be sent in time counts against
the server or, if the generator itself was late, against the run (`CrowdReport.late_ms`).

Raw HTTP/1.1 over keep-alive connections, one request at a time on each, on uvloop: some 10 us of
CPU a request (`python -m loadtest.crowd.ceiling`), so that one core can offer more than several
gateways can answer.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

from loadtest.crowd.grab_http import read_head
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import NoAnswer, PlannedRequest

#: Granularity of sending. Shorter than any latency of interest.
TICK_S = 0.001
#: The run ends so long after the last request; who has no answer then has none (status 0).
END_AFTER_S = 10.0
#: Time until a refused connection is tried again.
REFUSED_S = 0.05
#: How long that goes on before the run.
CONNECT_S = 10.0
#: How often the generator notes the CPU time that it has taken: some points in any second.
CPU_NOTE_S = 0.1


class _KeptConnection(asyncio.Protocol):
    """One keep-alive connection, with at most one request in flight."""

    __slots__ = ("_begun", "_crowd", "request", "transport")

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        #: The beginning of an answer that did not come in one piece.
        self._begun = b""
        self.request: PlannedRequest | None = None
        self.transport: asyncio.Transport  # set by connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: PlannedRequest, now_s: float) -> None:
        self.request = request
        request.sent_s = now_s
        self.transport.write(request.payload)

    def data_received(self, data: bytes) -> None:
        self._begun += data  # mostly nothing and all of an answer, which copies nothing
        head, end, body = self._begun.partition(b"\r\n\r\n")
        if not end:
            return
        status, length, retry_after_s = read_head(head)
        if len(body) < length:
            return
        self._begun = b""
        request, self.request = self.request, None
        if request is not None:
            request.status, request.retry_after_s = status, retry_after_s
            self._crowd.answered(self, request, body)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._crowd.lost(self)


class Crowd:
    """Sends requests when they are due."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connections_max: int,
        patience_s: float | None = None,
        on_answer: Callable[[PlannedRequest, bytes], None] = lambda _request, _body: None,
    ) -> None:
        self._host, self._port = host, port
        #: Called with each answer and its body.
        self._on_answer = on_answer
        self._connections_max = connections_max
        #: Who waits longer than this gives up; None: not before the run ends.
        self._patience_s = patience_s
        #: With a patience: what was sent, in about the order of the moments.
        self._sent: deque[tuple[_KeptConnection, PlannedRequest]] = deque()
        # Longest free first: each stands for another buyer, who is not back at once.
        self._free: deque[_KeptConnection] = deque()
        self._open = self._opening = 0
        self._waiting: deque[PlannedRequest] = deque()
        self._returns: list[tuple[float, int, PlannedRequest]] = []
        self._in_flight = 0
        self._start = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.report = CrowdReport(0.0)

    async def connect(self, count: int) -> None:
        """Open connections beforehand, as browsers do while people wait for the opening.

        Raise OSError when no server listens, or connections are refused for longer than CONNECT_S.
        """
        await self._connect()
        await asyncio.gather(*(self._connect_again() for _ in range(count - 1)))

    async def warm_up(self, sale_id: str, gateways: int) -> None:
        """Let every gateway process read a sale, as it has long before an opening.

        It answers when it has taken all connections that were made before, too.
        """
        for _ in range(8 * gateways):  # the kernel chooses a process for each connection
            reader, writer = await asyncio.open_connection(self._host, self._port)
            writer.write(
                f"GET /v1/sales/{sale_id} HTTP/1.1\r\nHost: localhost\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            await reader.read()
            writer.close()

    async def run(self, requests: Iterable[PlannedRequest], seconds: float) -> CrowdReport:
        """Send every request at its time, wait for the answers, and report on so many seconds."""
        self.report.seconds = seconds
        self._start = time.monotonic()
        coming = iter(requests)
        upcoming = next(coming, None)
        last_s = note_s = 0.0
        while upcoming or self._returns or self._waiting or self._in_flight:
            now_s = self._now_s()
            if now_s >= note_s and upcoming:
                self.report.cpu_notes.append((now_s, time.process_time()))
                note_s = now_s + CPU_NOTE_S
            while upcoming and upcoming.due_s <= now_s:
                # Sent or not: what stays unsent has no answer.
                self.report.requests.append(upcoming)
                self._send_or_queue(upcoming, now_s)
                last_s = upcoming.due_s
                upcoming = next(coming, None)
            while self._returns and self._returns[0][0] <= now_s:
                self._send_or_queue(heapq.heappop(self._returns)[2], now_s)
                last_s = now_s
            if self._patience_s is not None:
                self._give_up(now_s - self._patience_s)
            if self._waiting:
                self._send_queued()
            if not upcoming and not self._returns and now_s > last_s + END_AFTER_S:
                break
            await asyncio.sleep(TICK_S)
        for connection in self._free:
            connection.transport.close()
        return self.report

    def answered(self, connection: _KeptConnection, request: PlannedRequest, body: bytes) -> None:
        """Note an answer; let an obedient buyer come back after Retry-After."""
        request.answered_s = self._now_s()
        self._on_answer(request, body)
        self._in_flight -= 1
        self._free.append(connection)
        obeys = 0 < request.obeys_within_s >= request.retry_after_s
        if request.status == 429 and obeys and not request.comes_back:
            back_s = request.answered_s + request.retry_after_s
            again = PlannedRequest(back_s, request.payload, comes_back=True)
            self.report.requests.append(again)
            heapq.heappush(self._returns, (back_s, len(self.report.requests), again))

    def lost(self, connection: _KeptConnection) -> None:
        """Note a connection that the server closed; its request has no answer."""
        self._open -= 1
        if (request := connection.request) is not None:
            self._in_flight -= 1
            if request.no_answer is NoAnswer.NONE:
                request.no_answer, request.answered_s = NoAnswer.RESET, self._now_s()
        if connection in self._free:
            self._free.remove(connection)

    def _now_s(self) -> float:
        return time.monotonic() - self._start

    def _send_or_queue(self, request: PlannedRequest, now_s: float) -> None:
        if self._free and not self._waiting:
            self._send(request)
        else:
            request.queued_s = now_s
            self._waiting.append(request)

    def _send(self, request: PlannedRequest) -> None:
        self._in_flight += 1
        connection = self._free.popleft()
        # Not the time of the round: the last of a thousand goes out some milliseconds later.
        connection.send(request, self._now_s())
        if self._patience_s is not None:
            self._sent.append((connection, request))

    def _give_up(self, due_s: float) -> None:
        """Let those go who were due before then; a connection that has no answer is closed."""
        while self._waiting and self._waiting[0].due_s <= due_s:
            self._waiting.popleft().no_answer = NoAnswer.GAVE_UP
        while self._sent and (self._sent[0][1].answered_s or self._sent[0][1].due_s <= due_s):
            connection, request = self._sent.popleft()
            if not request.answered_s:
                request.no_answer = NoAnswer.GAVE_UP
                connection.transport.abort()

    def _send_queued(self) -> None:
        while self._waiting and self._free:
            self._send(self._waiting.popleft())
        wanted = min(len(self._waiting), self._connections_max - self._open) - self._opening
        for _ in range(wanted):
            self._opening += 1
            task = asyncio.create_task(self._connect_one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect_one(self) -> None:
        try:
            await self._connect()
        except OSError:  # a server that takes no connections leaves requests unsent
            await asyncio.sleep(REFUSED_S)
        finally:
            self._opening -= 1

    async def _connect_again(self) -> None:
        """Open a connection; who comes with thousands of others may be refused for a moment."""
        async with asyncio.timeout(CONNECT_S):
            while True:
                try:
                    return await self._connect()
                except OSError:
                    await asyncio.sleep(REFUSED_S)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _KeptConnection(self), self._host, self._port
        )
        self._open += 1
        self._free.append(connection)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep the garbage collector from running.

    To look at some hundred thousand requests would take it a quarter of a second, and look like a
    server that stands still.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
