"""The tree of an order's spans, from the lines of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from seckill.spans import trace_of_order
from seckill.tracing.span_file import SpanFile, StoredSpan


@dataclass(frozen=True, slots=True)
class SpanTree:
    """A span and what happened within it, or because of it, in order of time."""

    span: StoredSpan
    children: list[SpanTree] = field(default_factory=list)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, StoredSpan]]:
        """Yield every span with its depth, parents first."""
        yield depth, self.span
        for child in self.children:
            yield from child.walk(depth + 1)


def of_order(file: SpanFile, order_id: str) -> list[SpanTree]:
    """Return the trees of an order: one, unless the process with the first span was killed."""
    own = trace_of_order(order_id).trace_id
    # The order_id is an attribute of its spans, but of those in a batch's own trace.
    traces = {
        span.trace_id
        for span in file.read(order_id)
        if span.attributes.get("seckill.order_id") == order_id
    } | {own}
    spans = {
        s.span_id: s for trace_id in traces for s in file.read(trace_id) if s.trace_id == trace_id
    }
    return grow(spans.values())


def of_trace(file: SpanFile, trace_id: str) -> list[SpanTree]:
    """Return the trees of a trace: that of a grab that won no order has no other name."""
    return grow(span for span in file.read(trace_id) if span.trace_id == trace_id)


def grow(spans: Iterable[StoredSpan]) -> list[SpanTree]:
    """Put spans under their parents; return those without one, oldest first."""
    nodes = {s.span_id: SpanTree(s) for s in sorted(spans, key=lambda s: (s.start_ns, -s.end_ns))}
    roots = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent_id or "")
        if parent is None or parent is node:
            roots.append(node)
        else:
            parent.children.append(node)
    return roots
