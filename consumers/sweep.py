"""sweep: the net under the timers; cancels what is overdue whatever became of its timer."""

from __future__ import annotations

import asyncpg

from consumers.runner import Polled
from seckill import orders, telemetry

IDLE_S = 1.0
#: Orders this much overdue are the sweep's: the timers should have them first.
GRACE_S = 2.0
BATCH_MAX = 500


class Sweep:
    """Cancels overdue orders by looking for them."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db

    async def run_once(self) -> Polled:
        """Cancel one batch."""
        ended = await orders.release_overdue(self._db, grace_s=GRACE_S, limit=BATCH_MAX)
        telemetry.EXPIRED.labels("sweep").inc(len(ended))
        return Polled(len(ended), more=len(ended) == BATCH_MAX)
