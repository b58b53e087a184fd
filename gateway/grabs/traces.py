"""The traces of grabs: which grab is traced, and the spans of one that was answered.

A grab is traced from its beginning by the rate, or if it comes with a sampled `traceparent`. Any
other becomes a trace when it is answered late or fails: its stages were timed anyway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import asyncpg

from seckill import metrics
from seckill.adapters import topology
from seckill.errors import Unavailable
from seckill.inventory.reservations import Grab
from seckill.spans import (
    SPANS,
    SpanKind,
    TraceContext,
    new_trace,
    parse_traceparent,
    queue_attributes,
    trace_of_order,
)
from seckill.stage_times import StageTimes
from seckill.tracing import order_traces

ROUTE = "/v1/sales/{sale_id}/grabs"
SEND = f"send {topology.ORDERS_PLACE}"
#: The outcome of a paused sale is 503, and is no failure.
PAUSED = "paused"

log = logging.getLogger(__name__)

_order_id = attrgetter("order_id")
#: The contexts of traced grabs that have an order_id and no answer yet.
_under_way: dict[str, TraceContext] = {}


class GrabTrace:
    """The trace of a grab that is traced from its beginning."""

    __slots__ = ("context", "order_id", "parent")

    def __init__(self, parent: TraceContext | None) -> None:
        self.parent = parent
        self.context = parent.child() if parent else new_trace()
        self.order_id = ""

    @classmethod
    def begin(cls, traceparent: str) -> GrabTrace | None:
        """Return the trace of a grab that was chosen, or whose client traces it.

        A client that sends a traceparent without tracing has no say: then the rate decides.
        """
        parent = parse_traceparent(traceparent) if traceparent else None
        return cls(parent) if parent or not traceparent or SPANS.draw() < SPANS.rate else None

    def reserve(self, order_id: str) -> None:
        """Take the order_id that the grab has if it is granted."""
        self.order_id = order_id
        if self.parent is None:
            self.context = trace_of_order(order_id)
        _under_way[order_id] = self.context

    def end(self) -> None:
        """Forget the grab: it was answered, or its client is gone."""
        _under_way.pop(self.order_id, None)


def contexts_of(grabs: Iterable[Grab]) -> dict[str, TraceContext]:
    """Return the contexts of the traced grabs among these, by order_id."""
    if not _under_way:
        return {}
    # Most are not: no step of Python for each.
    traced = filter(_under_way.__contains__, map(_order_id, grabs))
    return {order_id: _under_way[order_id] for order_id in traced}


def has_failed(outcome: str, status: int) -> bool:
    """Return whether an answer is that of a failure."""
    return status >= 500 and outcome != PAUSED


@dataclass(frozen=True, slots=True)
class AnsweredGrab:
    """What is known of a grab at its answer; times are of the monotonic clock."""

    sale_id: str
    outcome: str
    status: int
    #: Of a new order; "" without one.
    order_id: str
    arrived_at: float
    parsed_at: float
    #: Of its last batch, if it came so far.
    times: StageTimes | None

    def record(self, trace: GrabTrace | None) -> TraceContext | None:
        """Record the spans of a grab that is answered now; return the context of a late trace."""
        now = time.monotonic()
        if trace is not None:
            self._record(trace.context, trace.parent, now, is_late=False)
            return None
        context = trace_of_order(self.order_id) if self.order_id else new_trace()
        self._record(context, None, now, is_late=True)
        return context

    def _record(
        self, root: TraceContext, parent: TraceContext | None, now: float, *, is_late: bool
    ) -> None:
        zero_ns = time.time_ns() - int(now * 1e9)
        of_order = {"seckill.order_id": self.order_id} if self.order_id else {}
        SPANS.record(
            f"POST {ROUTE}",
            root,
            parent,
            zero_ns + int(self.arrived_at * 1e9),
            zero_ns + int(now * 1e9),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": "POST",
                "http.route": ROUTE,
                "http.response.status_code": self.status,
                "seckill.sale_id": self.sale_id,
                "seckill.outcome": self.outcome,
                "seckill.late": is_late,
                **of_order,
            },
            error=self.outcome if has_failed(self.outcome, self.status) else None,
            events=[(name, zero_ns + int(at * 1e9)) for name, at in self._stages() if at],
        )
        self._exemplify(root.trace_id, now)

    def _exemplify(self, trace_id: str, now: float) -> None:
        """Name the trace beside what histograms have counted of this grab.

        Of a grab that was not published no stage is named: its call may have been a look-up.
        """
        waits = metrics.GRAB_SECONDS.distributions.get((self.outcome,))
        if waits is not None:
            waits.exemplify(now - self.arrived_at, trace_id)
        times = self.times
        if times is None or not times.published_at:
            return
        for stage, since, until in (
            ("queue", self.parsed_at, times.called_at),
            ("call", times.called_at, times.replied_at),
            ("wait_publish", times.replied_at, times.published_at),
            ("confirm", times.published_at, times.confirmed_at),
        ):
            if until:
                metrics.GRAB_STAGE_SECONDS.labels(stage).exemplify(until - since, trace_id)

    def _stages(self) -> Iterable[tuple[str, float]]:
        """Yield when it came to each stage; 0.0 for one that it has not reached.

        They are events of one span, as a span each would cost a busy gateway several per cent.
        """
        yield "parsed", self.parsed_at
        if (times := self.times) is not None:
            yield "called", times.called_at
            yield "replied", times.replied_at
            yield "published", times.published_at
            yield "confirmed", times.confirmed_at


def record_publish(
    members: dict[str, TraceContext], start_ns: int, size: int, error: Exception | None = None
) -> None:
    """Record a publish of `size` grabs, for the traced ones among them."""
    SPANS.record_batch(
        SEND,
        members,
        start_ns,
        size=size,
        kind=SpanKind.PRODUCER,
        attributes=queue_attributes(topology.ORDERS_PLACE, "publish"),
        errors=dict.fromkeys(members, str(error)) if error else None,
    )


class LateTraces:
    """Keeps the contexts of orders whose traces began late: no message carries them."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
        self._waiting: dict[str, TraceContext] = {}
        self._keeping: asyncio.Task[None] | None = None

    def keep(self, order_id: str, context: TraceContext) -> None:
        """Keep a context soon; at most LATE_MAX_PER_S a second come here."""
        self._waiting[order_id] = context
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name="late traces")

    async def _keep(self) -> None:
        try:
            while self._waiting:
                contexts, self._waiting = self._waiting, {}
                try:
                    await order_traces.keep(self._db, contexts)
                except Unavailable as error:  # the rest of these orders' lives is not traced
                    log.debug("%d late traces are not kept: %s", len(contexts), error)
        finally:
            self._keeping = None
