"""Health and metrics, on the admin port."""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.answers import json_response
from gateway.resources import BREAKER, DB, STOCK
from seckill.database import database_errors_as_unavailable
from seckill.errors import Unavailable

#: The gateway whose health an admin application tells.
EDGE = web.AppKey("edge", web.Application)


async def livez(_: web.Request) -> web.Response:
    """Answer while the event loop turns."""
    return json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Answer 200 when grabs can be taken: Redis is there. The rest may be away for a while.

    With the broker away accepted grabs wait in the outbox, with PostgreSQL away on the broker.
    """
    edge = request.app[EDGE]
    checks = {
        "redis": await _ok(edge[STOCK].now_ms()),
        "rabbitmq": not edge[BREAKER].open,
        "postgresql": await _ok(_ping_sql(edge)),
    }
    ready = checks["redis"]
    status = "ready" if all(checks.values()) else "degraded" if ready else "unready"
    return json_response({"status": status, "checks": checks}, status=200 if ready else 503)


async def metrics(_: web.Request) -> web.Response:
    """Answer with this process's metrics in the Prometheus format."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _ok(check: Awaitable[object]) -> bool:
    try:
        await check
    except Unavailable:
        return False
    return True


async def _ping_sql(edge: web.Application) -> None:
    with database_errors_as_unavailable():
        await edge[DB].execute("SELECT 1")
