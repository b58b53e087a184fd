"""`seckill trace`: the spans of an order as a tree, from the file that a stack writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from config.settings import load_settings
from ops.cli.console import Json, check_order_id, show
from seckill import order_ids
from seckill.errors import Missing
from seckill.spans import trace_of_order
from seckill.tracing import tree
from seckill.tracing.span_file import SpanFile, StoredSpan
from seckill.tracing.tree import SpanTree

#: Attributes that the tree's lines and its heading have already, or that say nothing to a person.
_HIDDEN = ("http.request.method", "http.route", "seckill.order_id", "seckill.late")

_TRACE_ID = re.compile(r"[0-9a-f]{32}\Z")


def check_id(text: str) -> str:
    """Return the id of an order, or of a trace that began without one; raise UserMistake."""
    if not _TRACE_ID.match(text.lower()):
        return check_order_id(text)
    dashed = str(UUID(text))
    return dashed if order_ids.PATTERN.match(dashed) else text.lower()


def trace(
    which: Annotated[
        str,
        typer.Argument(metavar="ORDER_ID", help="The order, or a trace_id.", callback=check_id),
    ],
    as_json: Json = False,
) -> None:
    """Print the trace of an order: what happened to it, where, when and for how long."""
    settings = load_settings()
    what = "trace" if _TRACE_ID.match(which) else "order"
    path = settings.spans_file()
    if path is None:
        raise Missing(
            f"the spans of {what} {which} are with the collector at {settings.otlp_endpoint}, "
            f"under trace {trace_of_order(which).trace_id} unless its client began the trace; "
            "set SECKILL_TRACE_FILE to have them in a file as well"
        )
    find = tree.of_trace if what == "trace" else tree.of_order
    found = find(SpanFile(path), which)
    if not found:
        why = "" if settings.trace_rate is not None else "; SECKILL_TRACE_RATE is not set here"
        missing = "no such trace" if what == "trace" else f"no trace of order {which}"
        raise Missing(f"there is {missing} in {path}{why}")
    show([_plain(each) for each in found], as_json, *_lines(f"{what} {which}", found))


def _lines(heading: str, found: Sequence[SpanTree]) -> Iterator[str]:
    yield f"{heading}, trace {found[0].span.trace_id}; times are UTC"
    for each in found:
        for depth, span in each.walk():
            yield _line(depth, span)


def _line(depth: int, span: StoredSpan) -> str:
    at = datetime.fromtimestamp(span.start_ns / 1e9, UTC).strftime("%m-%d %H:%M:%S.%f")[:-3]
    took_ms = (span.end_ns - span.start_ns) / 1e6
    shown = {k: v for k, v in span.attributes.items() if k not in _HIDDEN}
    facts = " ".join(f"{name.removeprefix('seckill.')}={value}" for name, value in shown.items())
    stages = " ".join(
        f"{name}+{(ns - span.start_ns) / 1e6:.1f}" for name, ns in span.events.items()
    )
    failed = f"  FAILED: {span.error}" if span.error else ""
    return (
        f"{at}  {took_ms:>10.1f} ms  {'  ' * depth}{span.name}{failed}"
        f"  [{span.service.removeprefix('seckill-')}] {facts} {stages}".rstrip()
    )


def _plain(each: SpanTree) -> dict[str, object]:
    """Return a tree for machines: each span with its children."""
    children = [_plain(child) for child in each.children]
    return {**msgspec.to_builtins(each.span), "children": children}
