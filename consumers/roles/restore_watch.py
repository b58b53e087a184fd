"""restore_watch: stops the sales of which a restored PostgreSQL has forgotten something.

It runs as a part of the role `reconcile`. Until an operator recovers them, its sales sell nothing
and their orders do not expire: seckill/consistency/history.py.
"""

from __future__ import annotations

import logging

import asyncpg
from redis.asyncio import Redis

from consumers.resources import Resources
from consumers.runtime.activity import REST_S
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill.consistency import fencing, history
from seckill.consistency.fencing import FenceReason

#: What was committed in so short a time before a restore may be lost without a notice; REST_S at
#: rest. Each look is a commit of one row.
IDLE_S = 0.25

log = logging.getLogger(__name__)


class RestoreWatch:
    """Raises the mark of PostgreSQL, and fences sales when it is back in time."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db

    async def run_once(self) -> Polled:
        """Look once."""
        if await history.advance(self._redis, self._db):
            return Polled(0, more=False)
        fenced, gone = await history.fence_restored(self._redis, self._db)
        log.error("PostgreSQL went back in time: it was restored from a backup, or failed over")
        for sale_id in fenced:
            log.error("%s", fencing.advice(sale_id, FenceReason.RESTORED))
        for sale_id in gone:
            log.error("sale %s is in Redis, and PostgreSQL knows no such sale any more", sale_id)
        return Polled(len(fenced), more=False)


def build(stores: Resources) -> Role:
    """Return the poller over the stores of this process; it counts as `reconcile`."""
    role = RestoreWatch(stores.redis, stores.db)
    return PollRole("reconcile", role.run_once, idle_s=IDLE_S, rest_s=REST_S)
