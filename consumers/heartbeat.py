"""What a consumer reports to the registry of the installation."""

from __future__ import annotations

from collections.abc import Callable

from config.settings import Settings
from consumers.admin import ConsumerHealth
from seckill import metrics
from seckill.registry.counts import by_label
from seckill.registry.heartbeat import Self, reasons_of
from seckill.registry.processes import ProcessState


def reports(settings: Settings, health: ConsumerHealth) -> Callable[[], ProcessState]:
    """Return what makes each report of this process."""
    own = Self("consumers", settings)

    def state() -> ProcessState:
        state = own.now()
        state.roles = health.supervisor.roles
        state.paused = sorted(health.paused)
        state.reasons = reasons_of(health.watch, health.watch.reasons())
        state.counts = {
            **by_label(metrics.ROLE_DONE, "role", "done:"),
            **by_label(metrics.ROLE_ERRORS, "role", "errors:"),
        }
        return state

    return state
