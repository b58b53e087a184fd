"""The contexts of traced orders in PostgreSQL, so that a refund next year is in the order's tree.

Only traced orders have a row. A process that does not trace never asks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.spans import SPANS, Attributes, SpanKind, TraceContext, parse_traceparent

log = logging.getLogger(__name__)


async def keep(db: asyncpg.Pool, contexts: Mapping[str, TraceContext]) -> None:
    """Keep the contexts of orders; the first that is kept of an order stays."""
    if not contexts:
        return
    with database_errors_as_unavailable():
        await db.execute(
            "INSERT INTO order_traces (order_id, traceparent)"
            " SELECT * FROM unnest($1::uuid[], $2::text[]) ON CONFLICT DO NOTHING",
            list(contexts),
            [context.traceparent for context in contexts.values()],
        )


async def find(
    db: asyncpg.Pool | asyncpg.Connection, order_ids: Collection[str]
) -> dict[str, TraceContext]:
    """Return the contexts of those orders that are traced; nothing while tracing is off.

    Never raise because a store is unavailable: the work goes on untraced.
    """
    if not SPANS.on or not order_ids:
        return {}
    try:
        with database_errors_as_unavailable():
            rows = await db.fetch(
                "SELECT order_id::text, traceparent FROM order_traces WHERE order_id = ANY ($1)",
                list(order_ids),
            )
    except Unavailable as error:
        log.debug("traces of %d orders cannot be found: %s", len(order_ids), error)
        return {}
    found = {order_id: parse_traceparent(text) for order_id, text in rows}
    return {order_id: context for order_id, context in found.items() if context}


async def record(
    db: asyncpg.Pool | asyncpg.Connection,
    name: str,
    order_ids: Collection[str],
    start_ns: int,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> None:
    """Record a batch of work that was done on orders until now, for those that are traced."""
    if SPANS.on and order_ids:
        found = await find(db, order_ids)
        SPANS.record_batch(
            name, found, start_ns, size=len(order_ids), kind=kind, attributes=attributes
        )
