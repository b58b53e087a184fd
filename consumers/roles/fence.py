"""fence: stops a sale whose Redis went back in time, until an operator rebuilds the sale.

It runs as a part of the role `reconcile`. Before the fence such a Redis sells units twice;
PostgreSQL rejects those orders.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import asyncpg
from redis.asyncio import Redis

from consumers.resources import Resources
from consumers.runtime.activity import ACTIVITY
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.consistency import fencing, history
from seckill.consistency.fencing import FenceReason, SaleState
from seckill.consistency.quiet import QuietRound
from seckill.sales import listing

#: For so long a Redis that went back in time may sell units twice.
IDLE_S = 1.0

log = logging.getLogger(__name__)


class Fence:
    """Fences sales that went back in time, and reports all sales that need a rebuild."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db
        self._quiet = QuietRound(redis, db)
        self._known: Mapping[str, FenceReason] = {}
        self._versions: Mapping[str, int] = {}

    async def run_once(self) -> Polled:
        """Check every live sale once, and the next page of the quiet ones."""
        return Polled(len(await self.check()), more=False)

    async def check(self) -> Mapping[str, FenceReason]:
        """Do as `run_once`; return the sales known to need a rebuild, with the reason."""
        live = await listing.live_ids(self._db)
        standings = await fencing.survey(self._redis, self._db, live, fence=True)
        troubles = dict(await self._quiet.check_page(live)) | {
            s: standing.fence_reason for s, standing in standings.items() if standing.fence_reason
        }
        for trouble in FenceReason:
            count = sum(each is trouble for each in troubles.values())
            metrics.TO_REBUILD.labels(trouble).set(count)
        for sale_id in troubles.keys() - self._known.keys():
            log.error("%s", fencing.advice(sale_id, troubles[sale_id]))
        self._known = troubles
        await self._remember_versions(standings)
        return troubles

    async def _remember_versions(self, standings: Mapping[str, SaleState]) -> None:
        """Remember in Redis the versions that have changed since the last look."""
        now = {sale_id: each.stamp.version for sale_id, each in standings.items() if each.stamp}
        changed = {s: version for s, version in now.items() if self._versions.get(s) != version}
        if changed:  # by any process: this one may have no role that sells
            ACTIVITY.worked()
        await history.remember_versions(self._redis, changed)
        self._versions = now


def build(stores: Resources) -> Role:
    """Return the poller over the stores of this process; it counts as `reconcile`."""
    return PollRole("reconcile", Fence(stores.redis, stores.db).run_once, idle_s=IDLE_S)
