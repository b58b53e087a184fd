"""What becomes of a grab: one order of checks, whichever way its request came in.

1. The ticket is verified, without any store.
2. With too much in flight the grab is shed, before anything that costs.
3. While the process knows that there is nothing to grab, the buyer is looked up: reads only.
4. Local limits of the buyer and the address, then the sale's limit.
5. The units are reserved, by the next call of the sale's script.

A grab costs no task: where a step has to ask a store, the grab takes a place in a batch and goes on
when the batch is answered. Nothing is touched before step 5. An outcome that is not known is
answered as such, never as "no"; sending the request again is safe.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web

from gateway.app_keys import DB
from gateway.grabs.reservations import (
    RESERVATIONS,
    GrabResult,
    SaleReservations,
    result_of_look_up,
)
from gateway.grabs.responses import (
    WAITS,
    body_of,
    not_open_until,
    status_of,
    too_few_left,
    too_many,
)
from gateway.grabs.traces import AnsweredGrab, GrabTrace, LateTraces
from gateway.http.auth import TICKET_KEYS
from gateway.http.client_address import TRUSTED_PROXIES, address_of
from gateway.http.problems import Problem, Refused
from gateway.overload.concurrency_limit import GRABS_IN_FLIGHT
from gateway.overload.poll_schedule import POLL_SCHEDULE
from gateway.overload.rate_limiter import LIMITER, RateLimited, rate_limited
from seckill import metrics
from seckill.auth import tickets
from seckill.errors import Unavailable
from seckill.hot_metrics import HotDistribution
from seckill.inventory.reservations import Holding, Verdict
from seckill.outages import summary_of
from seckill.sales.sales import Sale
from seckill.spans import SPANS
from seckill.stage_times import StageTimes

log = logging.getLogger(__name__)

#: Waits of grabs that a limit has refused.
RATE_LIMITED = metrics.GRAB_SECONDS.labels("rate_limited")

T = TypeVar("T")
R = TypeVar("R")


class GrabClient(Protocol):
    """Who waits for the answer to a grab; exactly one of the three is called, once."""

    def respond(self, verdict: Verdict, body: bytes) -> None:
        """Answer with a verdict of the script, and its body."""

    def refuse(self, refused: Refused) -> None:
        """Answer with a problem."""

    def shed(self) -> None:
        """Answer that there is too much in flight, for as little as that can cost."""


class GrabPipeline:
    """The grabs of one process."""

    def __init__(self, app: web.Application) -> None:
        self._ticket_keys, self.trusted = app[TICKET_KEYS], app[TRUSTED_PROXIES]
        self._reservations = app[RESERVATIONS]
        self.in_flight, self.limiter = app[GRABS_IN_FLIGHT], app[LIMITER]
        self.poll_schedule = app[POLL_SCHEDULE]
        self.late_traces = LateTraces(app[DB]) if DB in app else None
        self._now = asyncio.get_running_loop().time

    def begin_grab(
        self,
        client: GrabClient,
        sale: Sale,
        ticket: str,
        quantity: int,
        peer: str,
        forwarded: Sequence[str],
        came_at: float | None = None,
        arrived_at: float | None = None,
        traceparent: str = "",
    ) -> PendingGrab | None:
        """Begin a grab; return it if its answer is still to come, None if that was given.

        `peer` is the address of the connection and `forwarded` its lines of X-Forwarded-For.
        `came_at` is from when on it counts as in flight, in the loop's time; without it, just now.
        `arrived_at` is when its bytes came, if that is earlier. `traceparent` is as it was sent.
        """
        buyer_id = tickets.verify(
            self._ticket_keys, ticket, sale_id=sale.sale_id, now_s=time.time()
        )
        if buyer_id is None:
            client.refuse(Refused(Problem.BAD_TICKET))
            return None
        if self.in_flight.full:
            metrics.REFUSED_SHED.inc()
            client.shed()
            return None
        parsed_at = self._now()
        if came_at is None:
            came_at = parsed_at
        if arrived_at is None:
            arrived_at = came_at
        grab = PendingGrab(
            self,
            client,
            self._reservations.of(sale),
            buyer_id,
            quantity,
            peer,
            forwarded,
            came_at,
            arrived_at,
            parsed_at,
        )
        if SPANS.on and (traceparent or SPANS.draw() < SPANS.rate):
            grab.trace = GrabTrace.begin(traceparent)
        self.in_flight.enter()
        grab.start()
        return grab if grab.client is not None else None


class PendingGrab:
    """A verified grab on its way to its answer."""

    __slots__ = (
        "_buyer_id",
        "_came_at",
        "_forwarded",
        "_peer",
        "_pipeline",
        "_quantity",
        "_refused",
        "_reservations",
        "_step",
        "arrived_at",
        "client",
        "parsed_at",
        "trace",
    )

    def __init__(
        self,
        pipeline: GrabPipeline,
        client: GrabClient,
        reservations: SaleReservations,
        buyer_id: str,
        quantity: int,
        peer: str,
        forwarded: Sequence[str],
        came_at: float,
        arrived_at: float,
        parsed_at: float,
    ) -> None:
        self._pipeline = pipeline
        #: None once it was answered, or is no longer wanted.
        self.client: GrabClient | None = client
        self._reservations = reservations
        self._buyer_id, self._quantity = buyer_id, quantity
        self._peer, self._forwarded, self._came_at = peer, forwarded, came_at
        #: When its bytes came, as far as the loop's clock and the kernel tell.
        self.arrived_at = arrived_at
        #: When the request was read, as far as the loop's clock tells. It may stand still in a turn
        #: of the loop: no grab pays for a clock of its own until it is answered.
        self.parsed_at = parsed_at
        #: Set if it is traced from its beginning.
        self.trace: GrabTrace | None = None
        #: Its place in the batch of its present step; None once it was answered, so that the two
        #: do not keep each other alive until the garbage collector comes.
        self._step: _Step[Any, Any] | None = None
        #: What it is answered when a look-up finds no better answer.
        self._refused: Refused | None = None

    def start(self) -> None:
        """Take the first step."""
        if self._reservations.selling:
            self._limit()
        else:
            self._look_up()

    def cancel(self) -> None:
        """Leave the batch, unless it was answered: the client is gone."""
        step = self._step
        if self._end() is not None and step is not None:
            step.cancel()

    def fail(self, error: BaseException) -> None:
        """Answer that there is no result."""
        if isinstance(error, Unavailable):
            now = self._observe(WAITS[Verdict.UNAVAILABLE])
            if SPANS.on and (self.trace or SPANS.may_be_late(now)):
                self._record("unavailable", Problem.UNAVAILABLE.value.status)
            self._refuse(Refused(Problem.UNAVAILABLE, summary_of(error)))
        else:  # a bug: a traceback for us, an answer for the client
            log.error("a grab failed", exc_info=error)
            if SPANS.on and (self.trace or SPANS.may_be_late(time.monotonic())):
                self._record("internal", Problem.INTERNAL.value.status)
            self._refuse(Refused(Problem.INTERNAL))

    def _look_up(self) -> None:
        """Answer what a look-up says, unless it says that there is something to grab."""
        step = _Step(self, self._buyer_id, self._on_looked_up)
        self._step = step
        self._reservations.put_look_up(step)

    def _on_looked_up(self, found: tuple[Verdict, Holding | None]) -> None:
        result = result_of_look_up(*found)
        if result.verdict is not Verdict.ACCEPTED:
            self._answer(result)
        elif self._refused is not None:
            self._refuse_by_limit(self._refused)
        else:
            self._limit()

    def _limit(self) -> None:
        reservations, limiter = self._reservations, self._pipeline.limiter
        address = address_of(self._peer, self._forwarded, self._pipeline.trusted)
        if refusal := limiter.local_refusal(self._buyer_id, address):
            self._refuse_by_limit(rate_limited(refusal))
        # A place in the line beyond the units that are left would be a wait for nothing (F36).
        elif limiter.take(reservations.sale.sale_id, "try", lambda: reservations.left):
            self._reserve()
        else:
            step = _Step(self, self._buyer_id, self._on_limited)
            self._step = step
            limiter.put(reservations.sale.sale_id, "try", step)

    def _on_limited(self, refusal: RateLimited | None) -> None:
        if refusal is None:
            self._reserve()
        else:
            # Any place in the line is for nothing, too, once others have sold it all, of which
            # this process may not know yet.
            self._refused = rate_limited(refusal)
            self._look_up()

    def _reserve(self) -> None:
        grab = self._reservations.new_grab(self._buyer_id, self._quantity)
        if self.trace is not None:
            self.trace.reserve(grab.order_id)
        step = _Step(self, grab, self._answer)
        self._step = step
        self._reservations.put(step)

    def _answer(self, result: GrabResult) -> None:
        now, verdict = self._observe(WAITS[result.verdict]), result.verdict
        is_late = now - self.arrived_at > SPANS.slow_s or verdict is Verdict.OUTBOX_FULL
        if SPANS.on and (self.trace or (is_late and SPANS.may_be_late(now))):
            order_id = result.order_id if verdict is Verdict.ACCEPTED else ""
            self._record(verdict.name.lower(), status_of(verdict), order_id)
        left = self._reservations.left
        if result.verdict is Verdict.QUANTITY:
            self._refuse(too_many(self._reservations.sale))
        elif result.verdict is Verdict.SOLD_OUT and left and self._quantity > 1:
            self._refuse(too_few_left(left))
        elif verdict is Verdict.NOT_OPEN and (opens_at := self._reservations.sale.opens_at):
            self._refuse(not_open_until(opens_at))
        elif client := self._end():
            client.respond(result.verdict, body_of(result, self._pipeline.poll_schedule))

    def _refuse_by_limit(self, refused: Refused) -> None:
        now = self._observe(RATE_LIMITED)
        is_late = now - self.arrived_at > SPANS.slow_s
        if SPANS.on and (self.trace or (is_late and SPANS.may_be_late(now))):
            self._record("rate_limited", refused.problem.value.status)
        self._refuse(refused)

    def _observe(self, waits: HotDistribution) -> float:
        """Count the answer that it is about to get, and its wait; return the time of the answer.

        All its times are known here: its own, and those of its last batch (`_step.times`).
        """
        now = time.monotonic()
        waits.observe(now - self.arrived_at)
        return now

    def _record(self, outcome: str, status: int, order_id: str = "") -> None:
        """Record the trace of the answer that it is about to get."""
        sale_id, times = self._reservations.sale.sale_id, self._step.times if self._step else None
        answered = AnsweredGrab(
            sale_id, outcome, status, order_id, self.arrived_at, self.parsed_at, times
        )
        late, keeper = answered.record(self.trace), self._pipeline.late_traces
        if late is not None and order_id and keeper is not None:
            keeper.keep(order_id, late)

    def _refuse(self, refused: Refused) -> None:
        if client := self._end():
            client.refuse(refused)

    def _end(self) -> GrabClient | None:
        """Take it out of what is in flight, once; return the client if it was there."""
        client, self.client, self._step = self.client, None, None
        if client is not None:
            self._pipeline.in_flight.end(self._came_at)
        if self.trace is not None:
            self.trace.end()
        return client


class _Step(Generic[T, R]):
    """A grab's place in one batch (a `seckill.micro_batcher.Waiter`); `then` takes the answer."""

    __slots__ = ("_grab", "_then", "item", "since", "times")

    def __init__(self, grab: PendingGrab, item: T, then: Callable[[R], None]) -> None:
        self.item = item
        self._grab: PendingGrab | None = grab
        self._then = then
        self.since = grab.parsed_at
        self.times: StageTimes | None = None

    @property
    def gone(self) -> bool:
        """Tell whether it was answered, or the client is gone."""
        return self._grab is None

    def answer(self, result: R) -> None:
        """Take the answer, unless there was one."""
        if self._grab is not None:
            self._grab = None
            self._then(result)

    def fail(self, error: Exception) -> None:
        """Take it that there is no answer, unless there was one."""
        grab, self._grab = self._grab, None
        if grab is not None:
            grab.fail(error)

    def cancel(self) -> None:
        """Leave the batch."""
        self._grab = None


PIPELINE = web.AppKey("grab_pipeline", GrabPipeline)
