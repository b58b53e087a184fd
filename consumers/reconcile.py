"""fence and reconcile: what Redis lost is noticed within a second, and mended where it can be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import asyncpg
from redis.asyncio import Redis

from consumers.runner import Polled
from seckill import fencing, keys, reconcile, telemetry
from seckill.errors import Unavailable
from seckill.fencing import Stamp, Standing, Trouble
from seckill.reconcile import LOOKS_APART_S, REASONS, Difference, Look, Reconciler
from seckill.redis_client import redis_errors_as_unavailable

log = logging.getLogger(__name__)

#: A Redis that went back in time sells units twice until it is fenced; PostgreSQL rejects those.
FENCE_IDLE_S = 1.0
#: A look at a million holders takes ten seconds of both stores, and there may be a crowd at the
#: door: it works this share of the time.
SHARE = 1 / 20
#: Sales looked at at a time, so that small ones do not wait for a large one.
LOOKS_MAX = 4
#: Kept while passes follow each other; should its holder die, another takes over after that.
LOCK_S = 15.0


class Fence:
    """Fences sales that went back in time, and tells of all that need a rebuild."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db
        self._known: dict[str, Trouble] = {}

    async def run_once(self) -> Polled:
        """Judge every sale once."""
        return Polled(len(await self.judge()), more=False)

    async def judge(self) -> Mapping[str, Trouble]:
        """Judge every sale; return those in trouble."""
        standings = await fencing.survey(self._redis, self._db, fence=True)
        troubles = {s: standing.trouble for s, standing in standings.items() if standing.trouble}
        for trouble in Trouble:
            count = sum(each is trouble for each in troubles.values())
            telemetry.TO_REBUILD.labels(trouble).set(count)
        for sale_id in troubles.keys() - self._known.keys():
            log.error("%s", fencing.advice(sale_id, troubles[sale_id]))
        self._known = troubles
        return troubles


class Reconcile:
    """Looks at every sale that has changed, and repairs what two looks agree on."""

    def __init__(
        self, redis: Redis, db: asyncpg.Pool, reconciler: Reconciler, *, age_ms: int, applies: bool
    ) -> None:
        self._redis = redis
        self._db = db
        self._reconciler = reconciler
        self._age_ms = age_ms
        self._applies = applies
        self._lock = redis.lock(keys.reconcile_lock(), timeout=LOCK_S, blocking=False)
        self._looks: dict[str, Look] = {}
        #: The stamps with which sales were found quiet: while they keep them, they are.
        self._quiet: dict[str, Stamp] = {}
        self._due: dict[str, float] = {}

    async def run_once(self) -> Polled:
        """Look once at each sale that is due, and repair what two looks agree on."""
        return Polled(sum(map(len, (await self.look()).values())), more=False)

    async def look(self) -> dict[str, list[Difference]]:
        """Look once at each sale that is due; return what was repaired, or would have been."""
        if not await self._is_ours():
            return {}
        standings = await fencing.survey(self._redis, self._db)
        due = [sale_id for sale_id in standings if time.monotonic() >= self._due.get(sale_id, 0.0)]
        some = asyncio.Semaphore(LOOKS_MAX)

        async def look(sale_id: str) -> list[Difference]:
            async with some:
                found = await self._look(sale_id, standings[sale_id])
                self._due[sale_id] = time.monotonic() + LOOKS_APART_S
                return found

        async with self._keeping_the_lock():
            looks = [asyncio.create_task(look(sale_id), name="look") for sale_id in due]
            try:
                found = await asyncio.gather(*looks)
            finally:
                for each in looks:
                    each.cancel()
        return {s: differences for s, differences in zip(due, found, strict=True) if differences}

    async def _look(self, sale_id: str, standing: Standing) -> list[Difference]:
        before = self._looks.pop(sale_id, None)
        if standing.stamp is None or standing.stamp == self._quiet.get(sale_id):
            return []
        now = await reconcile.look(self._redis, self._db, sale_id, age_ms=self._age_ms, share=SHARE)
        if now.is_quiet:
            self._quiet[sale_id] = standing.stamp
            return []
        found = reconcile.agreed(before, now) if before else []
        if found and self._applies:
            done = await self._reconciler.repair(sale_id, standing.stamp.epoch, found)
            for action, count in (+done).items():
                log.warning("sale %s: %s %d (%s)", sale_id, action, count, REASONS[action])
            return found  # forgotten here: a repair is judged by two looks of its own
        if found:
            log.warning(
                "sale %s: the stores disagree on %d orders; look: seckill reconcile %s",
                sale_id,
                len(found),
                sale_id,
            )
        self._looks[sale_id] = now
        return found

    @asynccontextmanager
    async def _keeping_the_lock(self) -> AsyncIterator[None]:
        """Keep it during looks that last longer, or another process would begin the same."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(LOCK_S / 3)
                with suppress(Unavailable):  # the look itself will say so
                    await self._is_ours()

        keeping = asyncio.create_task(keep(), name="keep the lock")
        try:
            yield
        finally:
            keeping.cancel()

    async def _is_ours(self) -> bool:
        """Keep or take the lock, which only saves doing the same work in several processes."""
        with redis_errors_as_unavailable():
            if await self._lock.owned():
                await self._lock.reacquire()
                return True
            return bool(await self._lock.acquire())
