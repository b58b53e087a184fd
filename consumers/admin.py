"""Whether a consumer process can work, as its admin port says it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from consumers.resources import Resources
from consumers.runtime.role_supervisor import RoleSupervisor
from seckill.health import stores
from seckill.health.watch import HealthWatch
from seckill.metrics import ROLE_HELD


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


def held_roles() -> list[str]:
    """Return the roles that wait for a store."""
    samples = [sample for metric in ROLE_HELD.collect() for sample in metric.samples]
    return sorted(sample.labels["role"] for sample in samples if sample.value)
