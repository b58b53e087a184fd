"""fence: a sale whose Redis went back in time sells nothing until it is rebuilt."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import asyncpg
from redis.asyncio import Redis

from consumers.runtime.poll_role import Polled
from seckill import metrics
from seckill.consistency import fencing
from seckill.consistency.fencing import FenceReason

log = logging.getLogger(__name__)

#: A Redis that went back in time sells units twice until it is fenced; PostgreSQL rejects those.
FENCE_IDLE_S = 1.0


class Fence:
    """Fences sales that went back in time, and tells of all that need a rebuild."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db
        self._known: dict[str, FenceReason] = {}

    async def run_once(self) -> Polled:
        """Judge every sale once."""
        return Polled(len(await self.judge()), more=False)

    async def judge(self) -> Mapping[str, FenceReason]:
        """Judge every sale; return those in trouble."""
        standings = await fencing.survey(self._redis, self._db, fence=True)
        troubles = {s: standing.trouble for s, standing in standings.items() if standing.trouble}
        for trouble in FenceReason:
            count = sum(each is trouble for each in troubles.values())
            metrics.TO_REBUILD.labels(trouble).set(count)
        for sale_id in troubles.keys() - self._known.keys():
            log.error("%s", fencing.advice(sale_id, troubles[sale_id]))
        self._known = troubles
        return troubles
