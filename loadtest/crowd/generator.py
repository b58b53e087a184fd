"""An open-loop crowd: requests go out when they are due, however slow the answers are.

A closed loop waits for a slow server and so hides that it is slow. Here each latency counts from
the moment at which the request was *intended*, and what could not be sent in time counts against
the server or, if the generator itself was late, against the run (`Report.late_ms`).

Raw HTTP/1.1 over keep-alive connections, one request at a time on each, on uvloop: some 10 us of
CPU a request (`python -m loadtest.crowd.ceiling`), so that one core can offer more than several
gateways
can answer.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, cast

#: Granularity of sending. Shorter than any latency of interest.
PACE_S = 0.001
#: An answer that takes longer is counted as none (status 0).
PATIENCE_S = 10.0
#: How often the generator notes the CPU time that it has taken: some points in any second.
CPU_NOTE_S = 0.1

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class PlannedRequest:
    """One request: when it is due (seconds after the start), its bytes, and what became of it."""

    due_s: float
    payload: bytes
    #: An obedient buyer comes back once, when a 429 tells him to (unless that is too long a wait).
    obedient: bool = False
    comes_back: bool = False
    #: When it was found that all connections were taken; 0 when it went out at once.
    queued_s: float = 0.0
    sent_s: float = 0.0
    answered_s: float = 0.0
    status: int = 0
    retry_after_s: int = 0


@dataclass(slots=True)
class GeneratorReport:
    """What a crowd was told. Times are seconds after the start."""

    shots: list[PlannedRequest] = field(default_factory=list)
    #: (time, CPU seconds that this process had taken by then), until the last shot was due.
    cpu_notes: list[tuple[float, float]] = field(default_factory=list)

    def told(self) -> Counter[int]:
        """Count the answers by status; 0 is none."""
        return Counter(shot.status for shot in self.shots)

    def latency_ms(self, share: float, *statuses: int) -> float:
        """Return a percentile of the latencies, from intended to answered."""
        waits = sorted(s.answered_s - s.due_s for s in self.shots if s.status in statuses)
        return 1000 * percentile(waits, share)

    def late_ms(self, share: float) -> float:
        """Return a percentile of how late the generator itself was.

        Who waited for a connection, waited for the server: that is no lateness of the generator's.
        """
        begun = ((shot.queued_s or shot.sent_s, shot.due_s) for shot in self.shots)
        late = sorted(begun_s - due_s for begun_s, due_s in begun if begun_s)
        return 1000 * percentile(late, share)

    def cpu_share(self) -> float:
        """Return the CPU time of this process by the time of the run, until the last was due."""
        if len(self.cpu_notes) < 2:
            return 0.0
        (begin_s, before_s), (end_s, after_s) = self.cpu_notes[0], self.cpu_notes[-1]
        return (after_s - before_s) / (end_s - begin_s)

    def busiest_cpu_share(self, span_s: float = 1.0) -> float:
        """Return the largest such share of any span of so many seconds, or of a shorter run."""
        busiest, begins = 0.0, iter(self.cpu_notes)
        begin = next(begins, (0.0, 0.0))
        for end_s, after_s in self.cpu_notes:
            while end_s - begin[0] >= span_s:
                busiest = max(busiest, (after_s - begin[1]) / (end_s - begin[0]))
                begin = next(begins)
        return max(busiest, self.cpu_share())


class _Head(NamedTuple):
    """What counts of the head of an answer."""

    status: int
    length: int
    retry_after_s: int


# Within a second, in which the date stays, most answers of one kind have the same head.
@lru_cache(maxsize=1024)
def _read_head(head: bytes) -> _Head:
    length, after = _LENGTH.search(head), _RETRY_AFTER.search(head)
    return _Head(int(head[9:12]), int(length[1]) if length else 0, int(after[1]) if after else 0)


class _Connection(asyncio.Protocol):
    """One keep-alive connection, with at most one request under way."""

    __slots__ = ("_begun", "_crowd", "shot", "transport")

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        #: The beginning of an answer that did not come in one piece.
        self._begun = b""
        self.shot: PlannedRequest | None = None
        self.transport: asyncio.Transport  # set by connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, shot: PlannedRequest, now_s: float) -> None:
        self.shot = shot
        shot.sent_s = now_s
        self.transport.write(shot.payload)

    def data_received(self, data: bytes) -> None:
        if self._begun:
            data = self._begun + data
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            self._begun = data
            return
        read = _read_head(head)
        if len(body) < read.length:
            self._begun = data
            return
        self._begun = b""
        shot, self.shot = self.shot, None
        if shot is not None:
            shot.status, _, shot.retry_after_s = read
            self._crowd.answered(self, shot, body)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._crowd.lost(self)


class Crowd:
    """Sends shots when they are due."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connections_max: int,
        obey_within_s: float = float("inf"),
        heard: Callable[[PlannedRequest, bytes], None] | None = None,
    ) -> None:
        self._host, self._port = host, port
        #: Told each answer and its body.
        self._heard = heard
        self._connections_max = connections_max
        self._obey_within_s = obey_within_s
        # Longest free first: each stands for another buyer, who is not back at once.
        self._free: deque[_Connection] = deque()
        self._open = self._opening = 0
        self._due: deque[PlannedRequest] = deque()
        self._returns: list[tuple[float, int, PlannedRequest]] = []
        self._under_way = 0
        self._start = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.report = GeneratorReport()

    async def connect(self, count: int) -> None:
        """Open connections beforehand, as browsers do while people wait for the opening."""
        await asyncio.gather(*(self._connect() for _ in range(count)))

    async def warm_up(self, sale_id: str, gateways: int) -> None:
        """Let every gateway process hear of a sale, as it has long before an opening.

        Its answers come when it has taken all connections that were made before, too.
        """
        for _ in range(8 * gateways):  # the kernel chooses a process for each connection
            reader, writer = await asyncio.open_connection(self._host, self._port)
            writer.write(
                f"GET /v1/sales/{sale_id} HTTP/1.1\r\nHost: localhost\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            await reader.read()
            writer.close()

    async def run(self, shots: Iterable[PlannedRequest]) -> GeneratorReport:
        """Send every shot at its time, wait for the answers, and report."""
        self._start = time.monotonic()
        coming = iter(shots)
        upcoming = next(coming, None)
        last_s = note_s = 0.0
        while upcoming or self._returns or self._due or self._under_way:
            now_s = self._now_s()
            if now_s >= note_s and upcoming:
                self.report.cpu_notes.append((now_s, time.process_time()))
                note_s = now_s + CPU_NOTE_S
            while upcoming and upcoming.due_s <= now_s:
                self.report.shots.append(upcoming)  # sent or not: what stays unsent has no answer
                self._send_or_queue(upcoming, now_s)
                last_s = upcoming.due_s
                upcoming = next(coming, None)
            while self._returns and self._returns[0][0] <= now_s:
                self._send_or_queue(heapq.heappop(self._returns)[2], now_s)
                last_s = now_s
            if self._due:
                self._send_queued()
            if not upcoming and not self._returns and now_s > last_s + PATIENCE_S:
                break
            await asyncio.sleep(PACE_S)
        for connection in self._free:
            connection.transport.close()
        return self.report

    def answered(self, connection: _Connection, shot: PlannedRequest, body: bytes) -> None:
        """Note an answer; send the obedient back when they were told to come."""
        shot.answered_s = self._now_s()
        if self._heard is not None:
            self._heard(shot, body)
        self._under_way -= 1
        self._free.append(connection)
        obeys = shot.obedient and shot.retry_after_s <= self._obey_within_s
        if shot.status == 429 and obeys and not shot.comes_back:
            back_s = shot.answered_s + shot.retry_after_s
            again = PlannedRequest(back_s, shot.payload, obedient=True, comes_back=True)
            self.report.shots.append(again)
            heapq.heappush(self._returns, (back_s, len(self.report.shots), again))

    def lost(self, connection: _Connection) -> None:
        """Note a connection that the server closed; its request has no answer."""
        self._open -= 1
        if connection.shot is not None:
            self._under_way -= 1
        if connection in self._free:
            self._free.remove(connection)

    def _now_s(self) -> float:
        return time.monotonic() - self._start

    def _send_or_queue(self, shot: PlannedRequest, now_s: float) -> None:
        if self._free and not self._due:
            self._send(shot)
        else:
            shot.queued_s = now_s
            self._due.append(shot)

    def _send(self, shot: PlannedRequest) -> None:
        self._under_way += 1
        # Not the time of the round: the last of a thousand goes out some milliseconds later.
        self._free.popleft().send(shot, self._now_s())

    def _send_queued(self) -> None:
        while self._due and self._free:
            self._send(self._due.popleft())
        wanted = min(len(self._due), self._connections_max - self._open) - self._opening
        for _ in range(wanted):
            self._opening += 1
            task = asyncio.create_task(self._connect_one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect_one(self) -> None:
        try:
            with suppress(OSError):  # a server that takes no connections leaves shots unsent
                await self._connect()
        finally:
            self._opening -= 1

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self), self._host, self._port
        )
        self._open += 1
        self._free.append(connection)


@contextmanager
def no_garbage_looked_for() -> Iterator[None]:
    """Keep the collector away from a crowd.

    Looking for garbage among some hundred thousand shots would stop it for a quarter of a second,
    and look like a server that stands still.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of them lies; 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def grab_bytes(sale_id: str, ticket: str) -> bytes:
    """Return the bytes of a grab."""
    return (
        f"POST /v1/sales/{sale_id}/grabs HTTP/1.1\r\nHost: localhost\r\n"
        f"Seckill-Ticket: {ticket}\r\n"
        "Content-Type: application/json\r\nContent-Length: 15\r\n\r\n"
        '{"quantity": 1}'
    ).encode()
