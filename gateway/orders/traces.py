"""The span of a request about one order, in the trace of that order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway.app_keys import DB
from gateway.http.problems import Refused
from gateway.http.requests import order_id_of
from seckill.spans import SPANS, TRACEPARENT, SpanKind, parse_traceparent, working_in
from seckill.tracing import order_traces


@asynccontextmanager
async def traced_order(request: web.Request, route: str) -> AsyncIterator[str | None]:
    """Record the block as a span if the order is traced, or the client traces the request.

    Yield the span's traceparent, for what the request sets in motion; None if there is none.
    """
    if not SPANS.on:
        yield None
        return
    order_id, start_ns = order_id_of(request), time.time_ns()
    client = parse_traceparent(request.headers.get(TRACEPARENT))
    kept = (await order_traces.find(request.app[DB], [order_id])).get(order_id)
    # The order's own trace has all of its life. The client's is linked to.
    parent = kept or client
    if parent is None:
        yield None
        return
    context, status, error = parent.child(), 200, None
    try:
        with working_in(context):
            yield context.traceparent
    except Refused as refused:
        status = refused.problem.value.status
        error = refused.problem.code if status >= 500 else None
        raise
    except Exception as raised:
        status, error = 500, type(raised).__name__
        raise
    finally:
        SPANS.record(
            f"{request.method} {route}",
            context,
            parent,
            start_ns,
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": request.method,
                "http.route": route,
                "http.response.status_code": status,
                "seckill.order_id": order_id,
            },
            links=[client] if client and client is not parent else [],
            error=error,
        )
