"""The admin port of a consumer process: whether it lives, whether it can work, its metrics.

It answers from the event loop of the roles, so that a process whose loop hangs does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config.settings import Settings
from consumers.resources import Resources
from consumers.runtime.role_supervisor import RoleSupervisor
from seckill.admin_port import KEEPALIVE_S, AdminPort
from seckill.health import stores
from seckill.health.watch import HealthWatch
from seckill.metrics import ROLE_HELD
from seckill.process import listening

#: Time for the answers that are being written when the process ends.
SHUTDOWN_S = 0.5

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class ConsumerHealth:
    """What is known of a running consumer."""

    watch: HealthWatch
    supervisor: RoleSupervisor
    stop: asyncio.Event
    #: The roles that this process would run if they were not paused.
    paused: Collection[str] = ()

    @classmethod
    def of(
        cls, resources: Resources, supervisor: RoleSupervisor, stop: asyncio.Event
    ) -> ConsumerHealth:
        """Return the health of a process with these resources and roles."""
        looks = stores.looks(resources.settings, resources.redis, resources.db, resources.publisher)
        return cls(HealthWatch(looks), supervisor, stop)

    def readiness(self) -> tuple[int, dict[str, object]]:
        """Return a status of HTTP, and how it stands; it waits for nothing.

        Readiness of a consumer moves no traffic and restarts nothing: it halts a rollout. So 503 is
        right while a store refuses the work, which a restart would not cure.
        """
        if self.stop.is_set():
            return 503, {"status": "stopping"}
        reasons = self.watch.reasons()
        checks = {name: name not in reasons for name in self.watch.names}
        ready, roles, held = not reasons, self.supervisor.roles, held_roles()
        if not roles:
            reasons["roles"] = "all roles are paused" if self.paused else "no role is assigned"
        if held and ready:
            reasons["held"] = f"roles wait for a store: {', '.join(held)}"
        return 200 if ready else 503, {
            "status": "unready" if not ready else "degraded" if reasons else "ready",
            "checks": checks,
            "reasons": reasons,
            "roles": roles,
            "paused": sorted(self.paused),
            "held": held,
        }


HEALTH = web.AppKey("health", ConsumerHealth)


@asynccontextmanager
async def admin_port(settings: Settings, health: ConsumerHealth) -> AsyncIterator[None]:
    """Answer on the admin port inside the block."""
    app = web.Application()
    app[HEALTH] = health
    app.add_routes(
        [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)]
    )
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_S, keepalive_timeout=KEEPALIVE_S
    )
    await runner.setup()
    try:
        port = AdminPort(cast(web.Server, runner.server))
        with listening(settings.admin_host, settings.admin_port, "SECKILL_ADMIN_PORT"):
            server = await asyncio.get_running_loop().create_server(
                port, settings.admin_host, settings.admin_port
            )
        async with health.watch.running():
            yield
        server.close()
    finally:
        await runner.cleanup()


async def livez(_: web.Request) -> web.Response:
    """Answer while the event loop turns."""
    return _json(200, {"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Answer 200 while the roles can work."""
    return _json(*request.app[HEALTH].readiness())


async def metrics(_: web.Request) -> web.Response:
    """Answer with this process's metrics in the Prometheus format."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def held_roles() -> list[str]:
    """Return the roles that wait for a store."""
    samples = [sample for metric in ROLE_HELD.collect() for sample in metric.samples]
    return sorted(sample.labels["role"] for sample in samples if sample.value)


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=_encode(body), content_type="application/json")
