"""A process that cannot start before PostgreSQL is there.

PostgreSQL says whose stores these are, and which sales there are. So a process waits for it, and
answers on its admin port meanwhile: it lives, and is not ready. If the process ended instead, its
supervisor would start it again at ever longer intervals, up to minutes, and it would come back that
much later than PostgreSQL. Redis and RabbitMQ may be unavailable when a process starts: it begins
as one goes on that was running already.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from config.settings import Settings
from seckill.adapters.failures import POSTGRESQL
from seckill.admin_port import answering_health
from seckill.consistency import requirements
from seckill.process import notify_waiting

#: Between two attempts. Each opens a connection to every store.
AGAIN_S = 1.0
#: Lines in the log. A server that starts says different things on its way.
LINES_MAX = 20

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StartWait:
    """Why a process waits."""

    reason: str
    logged: set[str] = field(default_factory=set)

    def note(self, reason: str) -> None:
        """Take a reason, and log it if it is new."""
        self.reason = reason
        if reason not in self.logged and len(self.logged) < LINES_MAX:
            self.logged.add(reason)
            log.warning("%s; this process waits for it", reason)

    def readiness(self) -> tuple[int, dict[str, object]]:
        """Return that this process has not started, and why."""
        reasons = {POSTGRESQL: self.reason}
        return 503, {"status": "starting", "checks": {POSTGRESQL: False}, "reasons": reasons}


async def until_startable(settings: Settings, stop: asyncio.Event) -> bool:
    """Return when a process can start; False if it was told to stop meanwhile.

    Raise NotReady naming all faults that an operator has to mend.
    """
    reason = await _reason_to_wait(settings)
    if reason is None:
        return True
    wait = StartWait(reason)
    async with answering_health(settings, wait.readiness):
        notify_waiting(settings.notify_socket)
        while reason is not None:
            wait.note(reason)
            if await _is_set(stop, AGAIN_S):
                return False
            reason = await _reason_to_wait(settings)
    log.warning("PostgreSQL is there: starting")
    return True


async def _reason_to_wait(settings: Settings) -> str | None:
    return (await requirements.require_no_faults(settings)).get(POSTGRESQL)


async def _is_set(stop: asyncio.Event, within_s: float) -> bool:
    try:
        return await asyncio.wait_for(stop.wait(), within_s)
    except TimeoutError:
        return False
