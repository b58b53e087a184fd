"""Health and metrics, on the admin port; and what must be so before a sale opens."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from aiohttp import web

from gateway.app_keys import DB, INSTALLATION_ID, PUBLISHER, REDIS, SETTINGS, STOPPING
from gateway.grabs.publisher import BREAKER
from gateway.http.logins import LOGINS
from gateway.http.responses import json_response
from seckill.adapters.failures import POSTGRESQL, RABBITMQ
from seckill.adapters.failures import REDIS as REDIS_STORE
from seckill.adapters.rabbitmq import Broker
from seckill.admin_port import metrics_response
from seckill.consistency.preflight import Preflight, PreflightReport
from seckill.health import stores
from seckill.health.watch import HealthWatch, Look

log = logging.getLogger(__name__)

#: How stores are set up changes seldom, and looking at it takes a link of its own to the broker.
PREFLIGHT_S = 10.0
PREFLIGHT = "preflight"
#: The name of the keys of the login service among the reasons.
LOGIN_KEYS = "login_keys"

#: The public application, whose health the admin application reports.
EDGE = web.AppKey("edge", web.Application)


@dataclass(slots=True)
class GatewayHealth:
    """What is known of the stores of a running gateway."""

    edge: web.Application
    report: PreflightReport = field(default_factory=PreflightReport)
    watch: HealthWatch = field(init=False)

    def __post_init__(self) -> None:
        settings = self.edge[SETTINGS]
        looks = stores.looks(settings, self.edge[REDIS], self.edge[DB], self.edge[PUBLISHER])
        checks = Look(
            PREFLIGHT, "The check of how stores are set up", self._check, PREFLIGHT_S, PREFLIGHT_S
        )
        self.watch = HealthWatch([*looks, checks])

    async def _check(self) -> None:
        timeout_s = self.edge[SETTINGS].confirm_timeout_s
        known = self.report.problems
        self.report = await preflight_of(self.edge, timeout_s=timeout_s).check()
        log_new_problems(known, self.report.problems)

    def reasons(self) -> dict[str, str]:
        """Return why the stores do not do their work, by their names."""
        found = self.watch.reasons()
        failed_at = self.edge[BREAKER].failed_at
        if failed_at is not None and failed_at >= self.watch.well_at(RABBITMQ):
            waits = "RabbitMQ has not confirmed a publish; accepted grabs wait in the outbox"
            found.setdefault(RABBITMQ, waits)
        if flaw := self.edge[LOGINS].flaw:
            found[LOGIN_KEYS] = flaw
        return found


HEALTH = web.AppKey("health", GatewayHealth)


async def health_ctx(app: web.Application) -> AsyncIterator[None]:
    """Look at the stores as long as the admin application runs."""
    health = app[HEALTH] = GatewayHealth(app[EDGE])
    async with health.watch.running():
        yield


def preflight_of(edge: web.Application, *, timeout_s: float) -> Preflight:
    """Return the checks of the stores of a running gateway."""
    settings = edge[SETTINGS]
    broker = Broker(settings.amqp_url, "seckill-preflight", timeout_s, edge[INSTALLATION_ID])
    return Preflight(edge[REDIS], edge[DB], broker, settings.timeouts)


def log_new_problems(known: Collection[str], found: Collection[str]) -> None:
    """Log what was not known at the last look: one comes every few seconds.

    What a store refuses is left out. The call that it refused has logged it.
    """
    for problem in found:
        if problem not in known and "refuses" not in problem:
            log.warning("%s", problem)


async def livez(_: web.Request) -> web.Response:
    """Answer while the event loop turns."""
    return json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Answer 200 when grabs can be taken: Redis is there, and no store is set up to lose them.

    The answer is what the last looks have found, so it waits for no store. A process that was told
    to stop is not ready: it still serves, so that none of the requests that a balancer sends before
    it has looked again is refused.

    The other stores may be unavailable for a while. Without the broker, accepted grabs wait in the
    outbox; without PostgreSQL, they wait on the broker.
    """
    edge, health = request.app[EDGE], request.app[HEALTH]
    if edge[STOPPING].is_set():
        return json_response({"status": "stopping"}, status=503)
    reasons, report = health.reasons(), health.report
    sound = not report.problems or edge[SETTINGS].preflight == "warn"
    ready = REDIS_STORE not in reasons and sound
    whole = ready and not reasons and not report.problems
    found = {
        "status": "ready" if whole else "degraded" if ready else "unready",
        "checks": {name: name not in reasons for name in (REDIS_STORE, RABBITMQ, POSTGRESQL)},
        "reasons": reasons,
        "problems": report.problems,
        "warnings": report.warnings + report.unavailable,
        "sales": report.sales,
    }
    return json_response(found, status=200 if ready else 503)


async def metrics(request: web.Request) -> web.Response:
    """Answer with this process's metrics."""
    return metrics_response(request)
