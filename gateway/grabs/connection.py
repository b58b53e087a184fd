"""One connection: bytes in, grabs to the pipeline, bytes out.

aiohttp makes a task, a request and a response of each request; here a plain grab is one parse and
one call of the pipeline. Whatever is not a plain grab, or is for a sale that this process has not
read yet, goes to aiohttp, on the same connection: it is the request that is plain, and not the
connection, so a buyer who has just fetched a ticket is served here, too. Both ways lead into the
same pipeline, and the acceptance tests compare their answers. A sale that someone asks for is
answered here as well, while its bytes are known without asking a store.

On one connection requests are answered in their order: bytes that come while a grab is pending wait
here, and bytes that come while aiohttp has something pending go to aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web

from gateway.app_keys import SALES, SETTINGS, STOPPING
from gateway.grabs.parser import NotPlain, PlainGrab, length_of_lone_grab, read_plain_grab
from gateway.grabs.pipeline import PIPELINE, PendingGrab
from gateway.grabs.plain_views import PlainView, read_plain_view
from gateway.grabs.responses import RawResponses
from gateway.grabs.sale_views import KNOWN_VIEWS, has_copy
from gateway.http.client_address import TRUSTED_PROXIES
from gateway.http.cors import headers_for
from gateway.http.problems import Problem, Refused
from gateway.http.responses import HSTS
from gateway.overload.aiohttp_protocol import AiohttpProtocol
from gateway.overload.connection_limits import OVERLOADED, ConnectionLimits
from gateway.overload.eviction import Eviction
from gateway.overload.lateness import LATE_S, Lateness
from gateway.overload.loop_turns import TURN_MAX, LoopTurns
from gateway.overload.overflow import OverflowQueue
from seckill import metrics
from seckill.inventory.reservations import Verdict
from seckill.sales.sales import Sale

#: A grab that is not whole after this long is left to aiohttp, whose clocks know slow clients. An
#: honest one comes in one packet, or in two at once.
SPLIT_S = 1.0
#: Time between two sweeps over all connections: some 2 ms for 20,000 of them.
SWEEP_S = 0.5
#: What a client may send ahead of its answers before we stop reading: 200 pipelined grabs.
AHEAD_MAX = 64 * 1024
#: What HTTP/1.0 has to be told when the connection is kept, and HTTP/1.1 when it is not.
_CONNECTION = {
    (True, True): {"Connection": "keep-alive"},
    (False, False): {"Connection": "close"},
}


class ConnectionFactory:
    """What all connections of a process share. Call it to make the protocol of one."""

    def __init__(
        self,
        app: web.Application,
        limits: ConnectionLimits,
        make_aiohttp: Callable[[], AiohttpProtocol],
        *,
        keepalive_s: float,
        takes_grabs: bool = True,
    ) -> None:
        settings = app[SETTINGS]
        self.limits, self.make_aiohttp = limits, make_aiohttp
        #: How long a connection may stay without a whole request.
        self.keepalive_s = keepalive_s
        #: Whether plain grabs are taken here, and not by aiohttp like all else.
        self.takes_grabs = takes_grabs
        self.sales, self.pipeline, self.stopping = app[SALES], app[PIPELINE], app[STOPPING]
        self.views = app[KNOWN_VIEWS]
        self.loop = asyncio.get_running_loop()
        self.lateness = Lateness(self.loop)
        self.overflow = OverflowQueue(lambda: self.pipeline.in_flight.full)
        self.loop_turns = LoopTurns(self.loop)
        #: Whether pages of other origins are served.
        self.cors = bool(settings.cors_origins)
        hsts = HSTS if settings.tls_cert else {}
        #: By origin, whether it is HTTP/1.0, and whether the connection is kept open.
        self._responses = {
            (origin, is_http10, keeps_alive): RawResponses(
                {
                    **hsts,
                    **headers_for(origin, settings.cors_origins),
                    **_CONNECTION.get((is_http10, keeps_alive), {}),
                },
                "1.0" if is_http10 else "1.1",
            )
            for origin in {"", *settings.cors_origins}
            for is_http10 in (False, True)
            for keeps_alive in (False, True)
        }
        self.connections: set[Connection] = set()
        trusted = app[TRUSTED_PROXIES]
        self._eviction = Eviction(self.connections, trusted)
        #: Whether no more grabs are taken here.
        self.draining = False
        #: Grabs of these connections that wait for their answers.
        self._pending = 0
        self._drained: asyncio.Future[None] | None = None
        self._sweeping = self.loop.call_later(SWEEP_S, self._sweep)

    def __call__(self) -> Connection:
        """Return the protocol for one connection: a factory for `loop.create_server`."""
        return Connection(self)

    def responses_to(self, plain: PlainGrab | PlainView, *, keeps_alive: bool) -> RawResponses:
        """Return the responses to a request: for the page that it came from, if it did."""
        how = plain.is_http10, keeps_alive
        return self._responses.get((plain.origin, *how)) or self._responses["", *how]

    async def drain(self, within_s: float) -> None:
        """Let pending grabs be answered, and close the connections that wait for nothing."""
        self._sweeping.cancel()
        self.draining = True
        self._drained = self.loop.create_future()
        self.overflow.turn_all_away()
        self.loop_turns.end()
        await asyncio.sleep(0)  # what was passed to aiohttp begins, before aiohttp is shut down
        for connection in tuple(self.connections):
            connection.close_if_idle()
        if self._pending:
            await asyncio.wait([self._drained], timeout=within_s)

    def enter(self, connection: Connection, transport: asyncio.Transport) -> None:
        """Take a connection, or turn it away when there are too many and none of them is idle."""
        if self.limits.full:
            self.limits.leaving += self._eviction.make_room(self.loop.time())
        if self.limits.enter(transport):
            self.connections.add(connection)

    def begin(self) -> None:
        """Count a grab that is pending."""
        self._pending += 1

    def end(self) -> None:
        """Count off a grab that was answered, or whose connection is gone."""
        self._pending -= 1
        if not self._pending and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in tuple(self.connections):
            connection.sweep(now)
        self._sweeping = self.loop.call_later(SWEEP_S, self._sweep)


class Connection(asyncio.Protocol):
    """One connection: its bytes, and the one grab that may be pending (a `GrabClient`)."""

    __slots__ = (
        "_aiohttp",
        "_data",
        "_is_evicted",
        "_is_page",
        "_keeps_alive",
        "_paused",
        "_pending",
        "_responses",
        "_shared",
        "_since",
        "_stopped_reading",
        "_transport",
        "_turn_due",
        "_turn_since",
        "_waited_s",
        "_waits",
        "came_at",
        "peer",
    )

    def __init__(self, shared: ConnectionFactory) -> None:
        self._shared = shared
        self._transport: asyncio.Transport
        #: aiohttp's protocol of this connection, once it was needed.
        self._aiohttp: AiohttpProtocol | None = None
        #: What came and is not taken yet: the beginning of a grab, or what is sent ahead.
        self._data = b""
        #: When the first of it was read, or the last request was answered.
        self._since = shared.loop.time()
        #: How long the first of it had waited to be read.
        self._waited_s = 0.0
        self._paused = self._stopped_reading = self._is_evicted = False
        #: The length of the grab that waits for room, first of what lies here; 0 if none waits.
        self._waits = 0
        #: When that grab came.
        self.came_at = 0.0
        #: Whether this connection has had its turn, and goes on in the next one.
        self._turn_due = False
        #: Since when a request for aiohttp has waited for that; 0.0 if none does.
        self._turn_since = 0.0
        self._pending: PendingGrab | None = None

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse and close it when there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer: str = peer[0] if peer else ""
        self._shared.enter(self, self._transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let the pending grab leave its batch, and pass the news on to aiohttp."""
        shared = self._shared
        shared.limits.leave()
        shared.limits.leaving -= self._is_evicted
        shared.connections.discard(self)
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            shared.end()
        shared.overflow.discard(self)
        self._data = b""
        self._stopped_reading = False  # nothing is read from it any more
        if self._aiohttp is not None:
            self._aiohttp.connection_lost(exc)

    def pause_writing(self) -> None:
        """Serve nothing more: the client does not read its answers."""
        self._paused = True
        if self._aiohttp is not None:
            self._aiohttp.pause_writing()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._paused = False
        if self._aiohttp is not None:
            self._aiohttp.resume_writing()
        self._serve()

    def data_received(self, data: bytes) -> None:
        """Serve what came, if its turn has come."""
        if self._transport.is_closing():
            return
        if self._data:
            self._data += data
        else:
            self._data, self._since = data, self._shared.loop.time()
            aiohttp = self._aiohttp
            if aiohttp is not None and aiohttp.rested:
                self._waited_s, aiohttp.rested = 0.0, False
            else:
                self._waited_s = self._shared.lateness.of(self._transport)
        self._serve()
        if len(self._data) > AHEAD_MAX and not self._stopped_reading:
            self._stopped_reading = True
            self._transport.pause_reading()

    # Called by the factory.

    def sweep(self, now: float) -> None:
        """End what waits for nothing."""
        if self._pending is not None or self._must_wait:
            return
        if self._data:
            if now - self._since > SPLIT_S:
                self._pass_to_aiohttp(len(self._data))
        elif self._aiohttp is None and now - self._since > self._shared.keepalive_s:
            self._transport.close()

    @property
    def idle_since(self) -> float | None:
        """When it last had something under way; None if it has now."""
        aiohttp = self._aiohttp
        is_busy = self._pending is not None or self._waits > 0 or self._turn_due
        is_busy = is_busy or (aiohttp is not None and not aiohttp.idle)
        return None if is_busy or self._is_evicted else self._since

    def evict(self) -> None:
        """Close at once: others want the place."""
        self._is_evicted = True
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Close, unless something is to be answered or aiohttp has it: that ends its own."""
        if self._pending is None and self._aiohttp is None and not self._turn_due:
            self._transport.close()

    # Called by the overflow queue.

    def go_on(self) -> None:
        """Begin the grab that waited: there is room."""
        self._waits = 0
        self._serve()

    def turn_away(self) -> None:
        """Refuse the grab that waited."""
        self._refuse_unparsed()
        self._serve()

    # Called by the loop, or by the turns of all connections.

    def take_turn(self) -> None:
        """Go on: the others have had their turn."""
        self._turn_due = False
        if not self._transport.is_closing():
            self._serve()

    # Called by the pipeline.

    def respond(self, verdict: Verdict, body: bytes) -> None:
        """Write the answer of a verdict."""
        self._write(self._responses.of(verdict, body))

    def refuse(self, refused: Refused) -> None:
        """Write a problem."""
        self._write(self._responses.refused(refused))

    def shed(self) -> None:
        """Write that there is too much in flight."""
        # A page can read only what bears its headers; others must hear that this was the end.
        if self._is_page or not self._keeps_alive:
            self.refuse(Refused(Problem.OVERLOADED))
        else:
            self._write(OVERLOADED)

    # Serving.

    def _serve(self) -> None:
        """Take what lies there, request by request, until one is pending or unfinished."""
        taken, shared = 0, self._shared
        while self._data and self._pending is None and not self._must_wait:
            if taken == TURN_MAX:  # or a client that sends ahead would stop all others
                self._turn_due = True
                shared.loop.call_soon(self.take_turn)
                return
            taken += 1
            aiohttp = self._aiohttp
            is_busy = aiohttp is not None and not aiohttp.idle
            if is_busy or not shared.takes_grabs or shared.draining:
                self._pass_in_turn(len(self._data))
                return
            is_late = self._waited_s > LATE_S
            if (is_late or shared.pipeline.in_flight.full) and (
                length := length_of_lone_grab(self._data, cors=shared.cors)
            ):
                self._waits = length
                if is_late:
                    self._refuse_unparsed()
                else:
                    self.came_at = self._since
                    shared.overflow.put(self)
                return
            plain = read_plain_grab(self._data)
            if plain is NotPlain.UNFINISHED:
                break
            if isinstance(plain, NotPlain):
                self._take_other()
            elif plain.quantity and (sale := shared.sales.public(plain.sale_id)):
                self._data = self._data[plain.length :]
                self._begin_grab(plain, sale, plain.quantity, is_late=is_late)
            else:
                self._pass_in_turn(plain.length)
        if self._stopped_reading and len(self._data) <= AHEAD_MAX:
            self._resume_reading()

    def _take_other(self) -> None:
        """Answer who asks plainly for a sale, if no store is needed; pass all else to aiohttp."""
        plain, shared = read_plain_view(self._data), self._shared
        view = shared.views.peek(plain.sale_id) if plain else None
        if plain is None or view is None:
            self._pass_in_turn(len(self._data))
            return
        self._data = self._data[plain.length :]
        if self._aiohttp is not None:
            self._aiohttp.extend_keepalive()
        self._keeps_alive = plain.keeps_alive and not shared.stopping.is_set()
        responses = shared.responses_to(plain, keeps_alive=self._keeps_alive)
        has_it = bool(plain.if_none_match) and has_copy(plain.if_none_match, view.tag)
        self._write(responses.view(view, has_copy=has_it))

    @property
    def _must_wait(self) -> bool:
        return self._paused or self._turn_due or self._waits > 0

    def _refuse_unparsed(self) -> None:
        """Refuse the grab that waits, the first of what lies there."""
        is_stale = self._waited_s > LATE_S
        (metrics.REFUSED_STALE if is_stale else metrics.REFUSED_SHED).inc()
        self._transport.write(OVERLOADED)
        self._data, self._waits = self._data[self._waits :], 0
        self._since, self._waited_s = self._shared.loop.time(), 0.0
        if self._aiohttp is not None:
            self._aiohttp.extend_keepalive()

    def _begin_grab(self, plain: PlainGrab, sale: Sale, quantity: int, *, is_late: bool) -> None:
        if self._aiohttp is not None:
            self._aiohttp.extend_keepalive()
        self._is_page = self._shared.cors and plain.origin != ""
        # From the signal to stop on, each answer is the last of its connection.
        self._keeps_alive = plain.keeps_alive and not self._shared.stopping.is_set()
        self._responses = self._shared.responses_to(plain, keeps_alive=self._keeps_alive)
        if is_late:
            metrics.REFUSED_STALE.inc()
            self.shed()
            return
        self._pending = self._shared.pipeline.begin_grab(
            self,
            sale,
            plain.ticket,
            quantity,
            self.peer,
            (plain.forwarded,),
            arrived_at=self._since - self._waited_s,
            traceparent=plain.traceparent,
        )
        if self._pending is not None:
            self._shared.begin()

    def _pass_in_turn(self, length: int) -> None:
        """Give aiohttp so much of what lies there, when it is this connection's turn."""
        if self._shared.draining or self._shared.loop_turns.take():
            since, self._turn_since = self._turn_since, 0.0
            self._pass_to_aiohttp(length, since)
        else:
            self._turn_due, self._turn_since = True, self._shared.loop.time()
            self._shared.loop_turns.wait(self)

    def _pass_to_aiohttp(self, length: int, since: float = 0.0) -> None:
        """Give aiohttp so much of it; `since` is when it began to wait for its turn, if it did."""
        if self._aiohttp is None:
            self._aiohttp = self._shared.make_aiohttp()
            self._aiohttp.connection_made(self._transport)
            if self._paused:
                self._aiohttp.pause_writing()
        data, self._data = self._data[:length], self._data[length:]
        if self._stopped_reading:
            self._resume_reading()  # before aiohttp gets so much that it stops reading itself
        self._aiohttp.waited_since = since
        self._aiohttp.data_received(data)

    def _resume_reading(self) -> None:
        self._stopped_reading = False
        self._transport.resume_reading()

    def _write(self, answer: bytes) -> None:
        shared = self._shared
        self._transport.write(answer)
        self._since, self._waited_s = shared.loop.time(), 0.0
        was_pending, self._pending = self._pending is not None, None
        if was_pending:
            shared.end()
        if not self._keeps_alive:
            self._data = b""
            self._transport.close()
        elif not was_pending:  # answered within `_serve`, which goes on
            return
        elif shared.draining:
            self.close_if_idle()
        elif self._data:
            shared.loop.call_soon(self._serve)  # not at once: a batch's answers go out first
