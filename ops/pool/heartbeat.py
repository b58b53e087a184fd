"""What a pool manager reports to the registry of the installation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from config.settings import Settings
from seckill.registry.heartbeat import Self
from seckill.registry.processes import ProcessState, RoleFigures


def reports(
    settings: Settings, roles: Callable[[], Sequence[Mapping[str, Any]]]
) -> Callable[[], ProcessState]:
    """Return what makes each report of this process; `roles` gives the rows of its last look."""
    own = Self("pool", settings)
    own.known.admin_url = ""  # it has a socket in its home, and no port

    def state() -> ProcessState:
        state = own.now()
        state.pool = [_figures(row) for row in roles()]
        return state

    return state


def _figures(row: Mapping[str, Any]) -> RoleFigures:
    return RoleFigures(
        role=row["role"],
        wanted=row["wanted"],
        running=row["running"],
        paused=row["paused"],
        min=row["min"],
        max=row["max"],
        in_flight=row["in_hand"],
        rate_per_s=row["rate_per_s"],
        errors=row["errors"],
        restarts=row["restarts"],
        held=row["held"],
    )
