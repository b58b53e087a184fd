"""What a gateway reports to the registry of the installation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import web

from gateway.admin.health import EDGE, HEALTH
from gateway.app_keys import REDIS, SETTINGS, STOPPING
from seckill import metrics
from seckill.registry.counts import buckets, by_label
from seckill.registry.heartbeat import Self, reasons_of, reporting
from seckill.registry.processes import ProcessState

#: Makes the state of this process as it is now.
OWN_STATE = web.AppKey[Callable[[], ProcessState]]("own_state")


async def heartbeat_ctx(app: web.Application) -> AsyncIterator[None]:
    """Report as long as the admin application runs."""
    settings, health = app[EDGE][SETTINGS], app[HEALTH]
    own = Self("gateway", settings)

    def state() -> ProcessState:
        state = own.now()
        state.reasons = reasons_of(health.watch, health.reasons())
        state.roles = ["stopping"] if app[EDGE][STOPPING].is_set() else []
        state.counts = {
            **by_label(metrics.GRABS, "verdict", "grab:"),
            **buckets(metrics.GRAB_SECONDS, "wait:"),
            **by_label(metrics.REFUSALS, "reason", "refused:"),
            **by_label(metrics.RESET, "", "refused:reset"),
        }
        return state

    app[OWN_STATE] = state
    async with reporting(app[EDGE][REDIS], state):
        yield
