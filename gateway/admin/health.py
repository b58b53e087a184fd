"""Health and metrics, on the admin port; and what must be so before a sale opens."""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.app_keys import DB, INSTALLATION_ID, REDIS, SETTINGS, STOCK, STOPPING
from gateway.grabs.publisher import BREAKER
from gateway.http.responses import json_response
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.rabbitmq import Broker
from seckill.consistency.preflight import Preflight, PreflightReport
from seckill.errors import Unavailable
from seckill.single_flight import SingleFlight

#: How stores are set up changes seldom, and looking at it takes a link of its own to the broker.
PREFLIGHT_S = 10.0

#: The public application, whose health the admin application reports.
EDGE = web.AppKey("edge", web.Application)
PREFLIGHT = web.AppKey("preflight", SingleFlight[PreflightReport])


async def livez(_: web.Request) -> web.Response:
    """Answer while the event loop turns."""
    return json_response({"status": "alive"})


def preflight_of(edge: web.Application, *, timeout_s: float) -> Preflight:
    """Return the checks of the stores of a running gateway."""
    settings = edge[SETTINGS]
    broker = Broker(settings.amqp_url, "seckill-preflight", timeout_s, edge[INSTALLATION_ID])
    return Preflight(edge[REDIS], edge[DB], broker, settings.timeouts)


def watch_preflight(edge: web.Application) -> SingleFlight[PreflightReport]:
    """Return the checks of `/readyz`: done when asked for, at most once in PREFLIGHT_S."""

    async def read() -> PreflightReport:
        return await preflight_of(edge, timeout_s=edge[SETTINGS].confirm_timeout_s).check()

    return SingleFlight(read, interval_s=PREFLIGHT_S)


async def readyz(request: web.Request) -> web.Response:
    """Answer 200 when grabs can be taken: Redis is there, and no store is set up to lose them.

    A process that was told to stop is not ready: it still serves, so that none of the requests that
    a balancer sends before it has looked again is refused.

    The other stores may be unavailable for a while. Without the broker, accepted grabs wait in the
    outbox; without PostgreSQL, they wait on the broker.
    """
    edge = request.app[EDGE]
    if edge[STOPPING].is_set():
        return json_response({"status": "stopping"}, status=503)
    checks = {
        "redis": await _ok(edge[STOCK].now_ms()),
        "rabbitmq": not edge[BREAKER].open,
        "postgresql": await _ok(_ping_sql(edge)),
    }
    report = await request.app[PREFLIGHT].recent()
    sound = not report.problems or edge[SETTINGS].preflight == "warn"
    ready = checks["redis"] and sound
    whole = ready and all(checks.values()) and not report.problems
    found = {
        "status": "ready" if whole else "degraded" if ready else "unready",
        "checks": checks,
        "problems": report.problems,
        "warnings": report.warnings + report.unavailable,
        "sales": report.sales,
    }
    return json_response(found, status=200 if ready else 503)


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
