"""The fast lane: plain grabs go from a connection's bytes to the desk, and back as bytes.

aiohttp makes a task, a request and a response of each request; here a grab is one parse, one
look at tables and one place in a batch. Whatever is not a plain grab, or not one that can be
answered in the usual way, goes to aiohttp behind its door, on the same connection: the lane is a
request's, not a connection's, so a buyer who has just fetched his ticket has it, too. Answers,
limits and batches are the same behind both, and so are the tests (tests/acceptance).

On one connection requests are answered in their order: bytes that come while a grab is in hand wait
here, and bytes that come while aiohttp has something in hand go to aiohttp.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import msgspec
from aiohttp import web

from gateway.app_keys import SALES, SETTINGS
from gateway.grabs.parser import DECODER, NotPlain, PlainGrab, read_plain_grab
from gateway.grabs.pending_grab import PendingGrab
from gateway.grabs.reservations import RESERVATIONS, GrabResult, SaleReservations, told_by
from gateway.grabs.responses import COUNTERS, RawResponses, body_of, too_many
from gateway.grabs.routes import take_token
from gateway.http.auth import TICKET_KEYS
from gateway.http.client_address import TRUSTED_PROXIES, address_of
from gateway.http.cors import headers_for
from gateway.http.problems import Problem, Refused
from gateway.http.responses import HSTS
from gateway.overload.aiohttp_protocol import AiohttpProtocol, ConnectionLimits
from gateway.overload.concurrency_limit import GRABS_IN_FLIGHT
from gateway.overload.poll_schedule import POLL_SCHEDULE
from gateway.overload.rate_limiter import LIMITER, RateLimited, rate_limited
from seckill import metrics
from seckill.auth import tickets
from seckill.errors import Unavailable
from seckill.inventory.reservations import Holding, Verdict
from seckill.micro_batcher import Waiter
from seckill.sales.sales import Sale

log = logging.getLogger(__name__)

#: A grab that is not whole after this long is left to aiohttp, whose clocks know slow clients. An
#: honest one comes in one packet, or in two at once.
SPLIT_S = 1.0
#: Time between two looks at all connections: some 2 ms for 20,000 of them.
SWEEP_S = 0.5
#: What a client may send ahead of its answers before we stop reading: 200 pipelined grabs.
AHEAD_MAX = 64 * 1024


class ConnectionFactory:
    """What all connections of a process share. Makes their protocols: call it."""

    def __init__(
        self, app: web.Application, entrance: ConnectionLimits, *, is_open: bool = True
    ) -> None:
        settings = app[SETTINGS]
        self.entrance = entrance
        #: Whether plain grabs are taken here, and not by aiohttp like all else.
        self.is_open = is_open
        self.sales, self.desks, self.limiter = app[SALES], app[RESERVATIONS], app[LIMITER]
        self.ticket_keys, self.trusted = app[TICKET_KEYS], app[TRUSTED_PROXIES]
        self.in_hand, self.pace = app[GRABS_IN_FLIGHT], app[POLL_SCHEDULE]
        self.loop = asyncio.get_running_loop()
        hsts = HSTS if settings.tls_cert else {}
        self._origins = settings.cors_origins
        self._answers = {
            origin: RawResponses({**hsts, **headers_for(origin, self._origins)})
            for origin in {"", *self._origins}
        }
        self.connections: set[Connection] = set()
        #: Grabs in hand here.
        self.grabs = 0
        self._drained: asyncio.Future[None] | None = None
        self._sweep = self.loop.call_later(SWEEP_S, self._look_at_all)

    def __call__(self) -> Connection:
        """Return the protocol for one connection: a factory for `loop.create_server`."""
        return Connection(self)

    def answers_for(self, origin: str) -> RawResponses:
        """Return the answers for a page of this origin ("": no page, or any page)."""
        return self._answers.get(origin) or self._answers[""]

    async def drain(self, within_s: float) -> None:
        """Let the grabs in hand be answered, and close the connections that wait for nothing."""
        self._sweep.cancel()
        self._drained = self.loop.create_future()
        for connection in tuple(self.connections):
            connection.end()
        if self.grabs:
            await asyncio.wait([self._drained], timeout=within_s)

    def begin(self) -> None:
        """Count a grab that is taken in hand."""
        self.in_hand.enter()
        self.grabs += 1

    def finish(self, came_at: float) -> None:
        """Count a grab off that was answered, or whose connection is gone."""
        self.in_hand.end(came_at)
        self.grabs -= 1
        if not self.grabs and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @property
    def draining(self) -> bool:
        """Tell whether nothing more is taken here."""
        return self._drained is not None

    def _look_at_all(self) -> None:
        now = self.loop.time()
        for connection in tuple(self.connections):
            connection.look(now)
        self._sweep = self.loop.call_later(SWEEP_S, self._look_at_all)


class Connection(asyncio.Protocol):
    """One connection: its bytes, and the one grab that may be in hand."""

    __slots__ = (
        "_answers",
        "_buyer_id",
        "_came_at",
        "_data",
        "_door",
        "_lane",
        "_paused",
        "_peer",
        "_quantity",
        "_sale",
        "_since",
        "_stopped_reading",
        "_transport",
        "_waiting",
    )

    def __init__(self, lane: ConnectionFactory) -> None:
        self._lane = lane
        self._transport: asyncio.Transport
        self._door: AiohttpProtocol | None = None
        #: What came and is not yet somebody's: the beginning of a grab, or what is sent ahead.
        self._data = b""
        #: When the first of it came, or the last request was answered.
        self._since = lane.loop.time()
        self._came_at = 0.0
        self._paused = self._stopped_reading = False
        #: What waits for the grab in hand: None when there is none.
        self._waiting: Waiter[Any, Any] | None = None

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or turn it away when there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer: str = peer[0] if peer else ""
        if self._lane.entrance.enter(self._transport):
            self._lane.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let the grab in hand leave its batch, and tell aiohttp."""
        lane = self._lane
        lane.entrance.leave()
        lane.connections.discard(self)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
            lane.finish(self._came_at)
        self._data = b""
        self._stopped_reading = False  # nothing is read from it any more
        if self._door is not None:
            self._door.connection_lost(exc)

    def pause_writing(self) -> None:
        """Serve nothing more: the client does not read its answers."""
        self._paused = True
        if self._door is not None:
            self._door.pause_writing()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._paused = False
        if self._door is not None:
            self._door.resume_writing()
        self._serve()

    def data_received(self, data: bytes) -> None:
        """Serve what came, if its turn has come."""
        if self._transport.is_closing():
            return
        if not self._data:
            self._since = self._lane.loop.time()
        self._data = self._data + data if self._data else data
        self._serve()
        if len(self._data) > AHEAD_MAX and not self._stopped_reading:
            self._stopped_reading = True
            self._transport.pause_reading()

    # What the lane tells.

    def look(self, now: float) -> None:
        """End what waits for nothing."""
        if self._waiting is not None or self._paused:
            return
        if self._data:
            if now - self._since > SPLIT_S:
                self._hand_over(len(self._data))
        elif self._door is None and now - self._since > self._lane.entrance.keepalive_s:
            self._transport.close()

    def end(self) -> None:
        """Close, unless a grab is in hand or aiohttp has the connection: it ends its own."""
        if self._waiting is None and self._door is None:
            self._transport.close()

    # Serving.

    def _serve(self) -> None:
        """Take what lies there, request by request, until one is in hand or unfinished."""
        while self._data and self._waiting is None and not self._paused:
            door, lane = self._door, self._lane
            if not lane.is_open or lane.draining or (door is not None and not door.idle):
                self._hand_over(len(self._data))
                return
            plain = read_plain_grab(self._data)
            if plain is NotPlain.UNFINISHED:
                break
            if isinstance(plain, NotPlain):
                self._hand_over(len(self._data))
            elif (sale := lane.sales.known(plain.sale_id)) and self._press(plain, sale):
                self._data = self._data[plain.length :]
            else:
                self._hand_over(plain.length)
        if self._stopped_reading and len(self._data) <= AHEAD_MAX:
            self._read_on()

    def _read_on(self) -> None:
        self._stopped_reading = False
        self._transport.resume_reading()

    def _hand_over(self, length: int) -> None:
        """Give aiohttp so much of what lies there."""
        if self._door is None:
            self._door = self._lane.entrance.open_door()
            self._door.connection_made(self._transport)
            if self._paused:
                self._door.pause_writing()
        data, self._data = self._data[:length], self._data[length:]
        if self._stopped_reading:
            self._read_on()  # before aiohttp gets so much that it stops reading itself
        self._door.data_received(data)

    def _press(self, plain: PlainGrab, sale: Sale) -> bool:
        """Begin a grab, or refuse it; False when aiohttp is to have it."""
        lane = self._lane
        try:
            quantity = DECODER.decode(plain.body).quantity
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False  # aiohttp will find out what is wrong with it, and say so
        if self._door is not None:
            self._door.stay()
        self._answers = lane.answers_for(plain.origin)
        buyer_id = tickets.verify(
            lane.ticket_keys, plain.ticket, sale_id=plain.sale_id, now_s=time.time()
        )
        if buyer_id is None:
            self._transport.write(self._answers.bad_ticket())
            return True
        if lane.in_hand.full:
            self._refuse(plain)
            return True
        desk = lane.desks.of(sale)
        self._came_at = lane.loop.time()
        self._buyer_id, self._quantity, self._sale = buyer_id, quantity, sale
        lane.begin()
        if desk.selling:
            self._admit(desk, plain.forwarded)
        else:
            self._look_up(desk, partial(self._admit, desk, plain.forwarded))
        return True

    def _refuse(self, plain: PlainGrab) -> None:
        entrance = self._lane.entrance
        if entrance.cors and plain.origin:  # whose page can read only what bears its headers
            metrics.SHED.inc()
            self._transport.write(self._answers.refused(Refused(Problem.OVERLOADED)))
        else:
            entrance.refuse(self._transport, self._data[: plain.length])

    def _look_up(self, desk: SaleReservations, if_for_sale: Callable[[], None]) -> None:
        """Answer what a look-up says, unless it says that there is something to grab."""
        looks = PendingGrab(self._buyer_id, self, partial(self._looked, if_for_sale))
        self._waiting = looks
        desk.take_look(looks)

    def _looked(
        self, if_for_sale: Callable[[], None], found: tuple[Verdict, Holding | None]
    ) -> None:
        result = told_by(*found)
        if result.verdict is Verdict.ACCEPTED:
            if_for_sale()
        else:
            self.told(result)

    def _admit(self, desk: SaleReservations, forwarded: str) -> None:
        lane, buyer_id = self._lane, self._buyer_id
        address = address_of(self._peer, [forwarded], lane.trusted)
        if refusal := lane.limiter.refusal_here(buyer_id, address):
            self.failed(rate_limited(refusal))
        elif take_token(lane.limiter, desk, self._sale.sale_id):
            self._grab(desk)
        else:
            asks = PendingGrab(buyer_id, self, partial(self._asked, desk))
            self._waiting = asks
            lane.limiter.put(self._sale.sale_id, "try", asks)

    def _asked(self, desk: SaleReservations, refusal: RateLimited | None) -> None:
        if refusal is None:
            self._grab(desk)
        else:  # as in `grabs.ask_and_grab`: others may have sold it all
            self._look_up(desk, partial(self.failed, rate_limited(refusal)))

    def _grab(self, desk: SaleReservations) -> None:
        grabs = PendingGrab(desk.new_grab(self._buyer_id, self._quantity), self, self.told)
        self._waiting = grabs
        desk.take(grabs)

    def told(self, result: GrabResult) -> None:
        """Answer the grab in hand with its result."""
        verdict = result.verdict
        COUNTERS[verdict].inc()
        if result.order_id:
            body = body_of(result, self._lane.pace)
            self._answer(self._answers.given(verdict, body))
        elif verdict is Verdict.QUANTITY:
            self._answer(self._answers.refused(too_many(self._sale)))
        else:
            self._answer(self._answers.not_given(verdict))

    def failed(self, error: BaseException) -> None:
        """Answer the grab in hand, for which there is no result."""
        if isinstance(error, Unavailable):
            self.told(GrabResult(Verdict.UNAVAILABLE))
        elif isinstance(error, Refused):
            self._answer(self._answers.refused(error))
        else:  # a mistake of ours: a traceback for us, an answer for the client
            log.error("a grab failed", exc_info=error)
            self._answer(self._answers.refused(Refused(Problem.INTERNAL)))

    def _answer(self, answer: bytes) -> None:
        lane = self._lane
        self._waiting = None
        self._transport.write(answer)
        self._since = lane.loop.time()
        lane.finish(self._came_at)
        if lane.draining:
            self.end()
        elif self._data:
            lane.loop.call_soon(self._serve)  # not at once: a batch's answers go out first
