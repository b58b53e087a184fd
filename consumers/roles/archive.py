"""archive: makes old quiet sales history, if SECKILL_ARCHIVE_AFTER_DAYS says so.

It runs as a part of the role `reconcile`. Several processes may do the same at once: a sale is
archived once, under the lock of its row.
"""

from __future__ import annotations

import logging
import time

import asyncpg
from redis.asyncio import Redis

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill.consistency import archive
from seckill.errors import Conflict, WrongState

#: Sales archived in one pass, and the pause after it: 20 ledgers of small sales take 0.2 s, so this
#: is a twentieth of a core while there is a backlog.
BATCH_MAX = 20
IDLE_S = 5.0
#: Archived sales looked for in Redis in one pass: 1 ms of Redis.
PAGE = 500
#: A sale that cannot be archived waits for an operator, so it is seldom tried again.
AGAIN_S = 3600.0

DAY_S = 86_400

log = logging.getLogger(__name__)


class Archive:
    """Archives sales that closed long ago, and finishes what a killed process left."""

    def __init__(self, redis: Redis, db: asyncpg.Pool, *, after_days: float) -> None:
        self._redis = redis
        self._db = db
        self._after_days = after_days
        #: Sale that could not be archived -> monotonic time of the next attempt.
        self._refused: dict[str, float] = {}
        self._after = 0

    async def run_once(self) -> Polled:
        """Archive up to BATCH_MAX sales."""
        await self._clear()
        if not self._after_days:
            return Polled(0, more=False)
        now = time.monotonic()
        self._refused = {sale_id: at for sale_id, at in self._refused.items() if at > now}
        due = await archive.due(
            self._db, age_s=self._after_days * DAY_S, but=self._refused, limit=BATCH_MAX
        )
        done = 0
        for sale_id in due:
            try:
                await archive.archive(
                    self._redis,
                    self._db,
                    sale_id,
                    actor="reconcile",
                    reason=f"closed more than {self._after_days:g} days ago",
                )
                done += 1
            except (Conflict, WrongState) as error:
                log.warning("sale %s is not archived: %s", sale_id, error)
                self._refused[sale_id] = now + AGAIN_S
        return Polled(done, more=False)

    async def _clear(self) -> None:
        """Delete the keys of archived sales, wherever a kill or a restored Redis left some."""
        for sale_id in await archive.unfinished(self._db):
            await archive.clear(self._redis, self._db, sale_id)
        returned, self._after = await archive.returned_page(
            self._redis, self._db, after=self._after, limit=PAGE
        )
        for sale_id in returned:
            log.warning(
                "sale %s is archived, and was in Redis again: its keys are deleted", sale_id
            )
            await archive.clear(self._redis, self._db, sale_id)


def build(stores: Resources) -> Role:
    """Return the poller over the stores of this process; it counts as `reconcile`."""
    role = Archive(stores.redis, stores.db, after_days=stores.settings.archive_after_days)
    return PollRole("reconcile", role.run_once, idle_s=IDLE_S)
