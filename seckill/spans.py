"""Spans of traced orders, and the contexts (W3C traceparent) that tie them together.

Tracing is off unless `seckill.tracing` starts it: then `SPANS.on` is the one bit that callers look
at before anything else. Only orders that are traced cost more. Every span is made when it is over,
with explicit times, so a grab can become a trace after it was found to be slow. This module imports
no OpenTelemetry: a sink takes what is recorded.

An order has one context, that of the request which reserved it. It travels with the order through
outbox, messages and transactions, and PostgreSQL keeps it (seckill/tracing/order_traces.py), so
what becomes of the order the next day is in the same tree.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

#: The key of a transaction's arguments that holds its context.
TRACEPARENT = "traceparent"
#: Members of a batch that its span links to: OpenTelemetry keeps 128 links at most, and a person
#: looks at a few.
LINKS_MAX = 16
#: Late traces that one process makes in a second. In a stall every grab is slow, and tracing all of
#: them would make it longer.
LATE_MAX_PER_S = 50

#: Version 00, and the bit that says "sampled"; other bits are ignored. Ids of zeros are not valid.
_TRACEPARENT = re.compile(
    r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f][13579bdf]\Z"
)

Attributes = Mapping[str, str | int | float | bool]

#: Seeded by the system in each process. Ids of spans are no secrets.
_random = random.Random(os.urandom(32))  # noqa: S311


class TraceContext(NamedTuple):
    """A span of a sampled trace, as other spans refer to it; ids are lower-case hex."""

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """Return it as W3C traceparent writes it."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    def child(self) -> TraceContext:
        """Return the context of a new span of the same trace."""
        return TraceContext(self.trace_id, new_span_id())

    def named(self, name: str) -> TraceContext:
        """Return the context of the one span of this trace with a name, such as a tx_id.

        Every process gets the same, so that the children of a transaction need not know which
        process began it.
        """
        return TraceContext(self.trace_id, blake2b(name.encode(), digest_size=8).hexdigest())


class SpanKind(Enum):
    """What a span is to the other side, as OpenTelemetry has it."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class FinishedSpan(msgspec.Struct, frozen=True):
    """A span that is over; times are Unix nanoseconds."""

    name: str
    context: TraceContext
    parent_id: str | None
    start_ns: int
    end_ns: int
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Attributes = {}
    links: Sequence[TraceContext] = ()
    #: Why it failed; None if it did not.
    error: str | None = None
    #: What it reached, and when.
    events: Sequence[tuple[str, int]] = ()


def new_span_id() -> str:
    """Make the id of a span."""
    return f"{_random.getrandbits(64) or 1:016x}"


def new_trace() -> TraceContext:
    """Return the context of the first span of a new trace."""
    return TraceContext(f"{_random.getrandbits(128) or 1:032x}", new_span_id())


def trace_of_order(order_id: str) -> TraceContext:
    """Return the context of an order whose trace begins here: its trace_id is the order_id."""
    hex_ = order_id.replace("-", "")
    return TraceContext(hex_, hex_[16:])


def parse_traceparent(text: str | None) -> TraceContext | None:
    """Return the context of a traceparent that is sampled; None for any other text."""
    match = _TRACEPARENT.match(text or "")
    return TraceContext(match[1], match[2]) if match else None


def plain_traces(contexts: Mapping[str, TraceContext] | None) -> dict[str, str] | UnsetType:
    """Return contexts by order_id as a message has them: no field at all if there are none."""
    if not contexts:
        return UNSET
    return {order_id: context.traceparent for order_id, context in contexts.items()}


def read_traces(plain: object) -> dict[str, TraceContext]:
    """Return contexts by order_id; what cannot be read is left out: work goes on without it."""
    if not isinstance(plain, dict):
        return {}
    found = {key: parse_traceparent(text) for key, text in plain.items() if isinstance(text, str)}
    return {key: context for key, context in found.items() if context and isinstance(key, str)}


def trace_of_args(args: Mapping[str, object]) -> TraceContext | None:
    """Return the context that a transaction's arguments carry; None while tracing is off."""
    text = args.get(TRACEPARENT) if SPANS.on else None
    return parse_traceparent(text) if isinstance(text, str) else None


def trace_of_transaction(tx_id: str, args: Mapping[str, object]) -> TraceContext | None:
    """Return the context of a transaction's own span, which is the parent of all that it does."""
    parent = trace_of_args(args)
    return parent and parent.named(tx_id)


class Spans:
    """Where the spans of a process go."""

    def __init__(self) -> None:
        #: Whether anything is traced. Everything else here is asked only if it is.
        self.on = False
        self.rate = 0.0
        #: A grab that took longer becomes a trace when it is answered.
        self.slow_s = 0.0
        self._sink: Callable[[FinishedSpan], None] = lambda _: None
        #: A number from 0 to below 1. A new trace begins if it is below the rate.
        self.draw = _random.random
        #: Late traces of this second, and when it ends, by the monotonic clock.
        self._late, self._late_until = 0, 0.0

    def start(self, sink: Callable[[FinishedSpan], None], *, rate: float, slow_s: float) -> None:
        """Begin to trace: this share of the grabs, and those that take longer than `slow_s`."""
        self._sink, self.rate, self.slow_s = sink, rate, slow_s
        self.on = True

    def stop(self) -> None:
        """Trace nothing more."""
        self.on = False

    def may_be_late(self, now: float) -> bool:
        """Return whether another late trace may be made in this second, and count it.

        `now` is of the monotonic clock. It is asked for each grab that was slow, so it is quick to
        say no.
        """
        if now >= self._late_until:
            self._late, self._late_until = 0, now + 1.0
        elif self._late >= LATE_MAX_PER_S:
            return False
        self._late += 1
        return True

    def record(
        self,
        name: str,
        context: TraceContext,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        links: Sequence[TraceContext] = (),
        error: str | None = None,
        events: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Record a span that is over; without an end it ends now."""
        if not self.on:
            return
        end_ns = time.time_ns() if end_ns is None else end_ns
        parent_id = parent.span_id if parent else None
        self._sink(
            FinishedSpan(
                name,
                context,
                parent_id,
                start_ns,
                max(start_ns, end_ns),
                kind,
                attributes or {},
                links,
                error,
                events,
            )
        )

    def record_batch(
        self,
        name: str,
        members: Mapping[str, TraceContext],
        start_ns: int,
        *,
        size: int,
        kind: SpanKind,
        attributes: Attributes | None = None,
        errors: Mapping[str, str] | None = None,
    ) -> None:
        """Record work on a batch of `size`, of which `members` are traced, by order_id.

        Each member's tree has a span of it, with its own error if it has one. Of several members,
        the batch is a span of its own besides, with links to the first of them and from each.
        """
        if not self.on or not members:
            return
        end_ns, batch = time.time_ns(), new_trace()
        attributes = {**(attributes or {}), "messaging.batch.message_count": size}
        if len(members) > 1:
            self.record(
                name,
                batch,
                None,
                start_ns,
                end_ns,
                kind=kind,
                attributes=attributes,
                links=[*islice(members.values(), LINKS_MAX)],
            )
        for order_id, parent in members.items():
            self.record(
                name,
                parent.child(),
                parent,
                start_ns,
                end_ns,
                kind=kind,
                attributes={**attributes, "seckill.order_id": order_id},
                links=[batch] if len(members) > 1 else [],
                error=(errors or {}).get(order_id),
            )


#: The spans of this process.
SPANS = Spans()

_current: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)


def current() -> TraceContext | None:
    """Return the context in which this task works; None if it is not traced."""
    return _current.get() if SPANS.on else None


@contextmanager
def working_in(context: TraceContext | None) -> Iterator[None]:
    """Make a context that of this task for the block; without one, change nothing."""
    if context is None:
        yield
        return
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def span_of(
    parent: TraceContext | None,
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> Iterator[TraceContext | None]:
    """Record the block as a child of `parent`, and make it the context of this task meanwhile.

    Without a parent it does nothing. An exception makes the span one that failed.
    """
    if parent is None or not SPANS.on:
        yield None
        return
    context, start_ns, error = parent.child(), time.time_ns(), None
    try:
        with working_in(context):
            yield context
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        SPANS.record(name, context, parent, start_ns, kind=kind, attributes=attributes, error=error)


def traced(
    order_ids: Collection[str], contexts: Mapping[str, TraceContext]
) -> dict[str, TraceContext]:
    """Return the contexts of those orders that have one."""
    if not contexts:
        return {}
    return {order_id: contexts[order_id] for order_id in order_ids if order_id in contexts}


def queue_attributes(queue: str, operation: str) -> dict[str, str | int | float | bool]:
    """Return the attributes of a span that sends to or processes a queue of RabbitMQ."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": "process" if operation == "process" else "send",
    }
