"""fence and reconcile: what Redis lost is noticed within a second, and mended where it can be."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

import asyncpg
from redis.asyncio import Redis

from consumers.resources import Resources
from consumers.roles.fence import FENCE_IDLE_S, Fence
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role, RoleGroup
from seckill.adapters import redis_keys, topology
from seckill.adapters.rabbitmq import count_waiting
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.consistency import diff, fencing
from seckill.consistency.diff import COMPARISONS_APART_S, REASONS, Comparison, Difference
from seckill.consistency.fencing import ChangeStamp
from seckill.consistency.repair import Reconciler

log = logging.getLogger(__name__)

#: A look at a million holders takes ten seconds of both stores, and there may be a crowd at the
#: door: looks and repairs together work this share of the time.
SHARE = 1 / 20
#: Sales looked at at a time, so that small ones do not wait for a large one.
LOOKS_MAX = 4
#: A pass waits so long for looks, and leaves those that last longer to the next ones.
PASS_S = 3.0
#: Kept while passes follow each other; should its holder die, another takes over after that.
LOCK_S = 15.0


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
        self._lock = redis.lock(redis_keys.reconcile_lock(), timeout=LOCK_S, blocking=False)
        self._looks: dict[str, Comparison] = {}
        #: The stamps with which sales were found quiet: while they keep them, they are.
        self._quiet: dict[str, ChangeStamp] = {}
        self._due: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Task[list[Difference]]] = {}
        self._places = asyncio.Semaphore(LOOKS_MAX)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until told to stop; what is being looked at then is left in the middle."""
        try:
            await PollRole("reconcile", self.run_once, idle_s=COMPARISONS_APART_S).run(stop)
        finally:
            await self._leave()

    async def run_once(self) -> Polled:
        """Look at each sale that is due, and repair what two looks agree on."""
        return Polled(sum(map(len, (await self.look()).values())), more=False)

    async def look(self) -> dict[str, list[Difference]]:
        """Begin a look at each sale that is due; return what was repaired, or would have been.

        Of a sale whose look lasts longer than a pass, a later one tells.
        """
        if not await self._is_ours():
            await self._leave()  # another process begins the same
            return {}
        for sale_id, standing in (await fencing.survey(self._redis, self._db)).items():
            is_due = time.monotonic() >= self._due.get(sale_id, 0.0)
            if not is_due or sale_id in self._under_way:
                continue
            if standing.stamp is None or standing.stamp == self._quiet.get(sale_id):
                self._looks.pop(sale_id, None)
                continue
            looking = asyncio.create_task(self._look(sale_id, standing.stamp), name="look")
            self._under_way[sale_id] = looking
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=PASS_S)
        acted: dict[str, list[Difference]] = {}
        for sale_id, looking in list(self._under_way.items()):
            if looking.done():
                del self._under_way[sale_id]
                self._due[sale_id] = time.monotonic() + COMPARISONS_APART_S
                if differences := looking.result():
                    acted[sale_id] = differences
        return acted

    async def _leave(self) -> None:
        """Leave what is under way; whatever a look does may be left half done."""
        for looking in self._under_way.values():
            looking.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        self._under_way.clear()

    async def _look(self, sale_id: str, stamp: ChangeStamp) -> list[Difference]:
        before = self._looks.pop(sale_id, None)
        async with self._places:
            share = SHARE / min(LOOKS_MAX, len(self._under_way))
            now = await diff.compare_sale(
                self._redis, self._db, sale_id, age_ms=self._age_ms, share=share
            )
        if now.is_quiet:
            self._quiet[sale_id] = stamp
            return []
        found = diff.in_both(before, now) if before else []
        if found and self._applies:
            done = await self._reconciler.repair(sale_id, stamp.epoch, found, share=share)
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

    async def _is_ours(self) -> bool:
        """Keep or take the lock, which only saves doing the same work in several processes."""
        with redis_errors_as_unavailable():
            if await self._lock.owned():
                await self._lock.reacquire()
                return True
            return bool(await self._lock.acquire())


def build(stores: Resources) -> Role:
    """Return the role, on the stores of this process."""
    count = partial(count_waiting, stores.consuming, *topology.GRAB_QUEUES)
    reconciler = Reconciler(stores.redis, stores.db, stores.publisher, count, actor="reconcile")
    role = Reconcile(
        stores.redis,
        stores.db,
        reconciler,
        age_ms=int(stores.settings.reconcile_age_s * 1000),
        applies=stores.settings.reconcile_applies,
    )
    fence = Fence(stores.redis, stores.db)
    return RoleGroup(
        [
            PollRole("reconcile", fence.run_once, idle_s=FENCE_IDLE_S),
            role,
        ]
    )
