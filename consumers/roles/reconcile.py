"""reconcile: compares the stores sale by sale, and repairs what two comparisons agree on.

It notices within a second that Redis went back in time (fence.py) or PostgreSQL did
(restore_watch.py), and finds lost messages and lost holders later.
`seckill/consistency/repair.py` says what a repair does, and why it is safe.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import LockError

from consumers.resources import Resources
from consumers.roles import archive, fence, restore_watch, survey
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role, RoleGroup
from seckill.adapters import redis_keys, topology
from seckill.adapters.rabbitmq import count_waiting
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.consistency import diff, fencing, quiet
from seckill.consistency.diff import COMPARISONS_APART_S, REASONS, Comparison, Difference
from seckill.consistency.fencing import ChangeStamp, SaleState
from seckill.consistency.repair import Reconciler
from seckill.sales import listing

#: Comparisons and repairs together work this share of the time: to compare a million holders keeps
#: both stores busy for ten seconds, and a sale may be under way.
SHARE = 1 / 20
#: Sales compared at the same time, so that small sales do not wait for a large one.
COMPARISONS_MAX = 4
#: A pass waits so long; a comparison that lasts longer is collected by a later pass.
PASS_S = 3.0
#: Longer than a pass; if the process with the lock is killed, another takes over after that.
LOCK_S = 15.0

log = logging.getLogger(__name__)


class Reconcile:
    """Compares every live sale that has changed, and repairs what two comparisons agree on.

    It also marks the sales that are over and quiet (seckill/consistency/quiet.py).
    """

    def __init__(
        self, redis: Redis, db: asyncpg.Pool, reconciler: Reconciler, *, age_ms: int, applies: bool
    ) -> None:
        self._redis = redis
        self._db = db
        self._reconciler = reconciler
        self._age_ms = age_ms
        self._applies = applies
        self._lock = redis.lock(redis_keys.reconcile_lock(), timeout=LOCK_S, blocking=False)
        #: Sale -> its first comparison, until a second one confirms it.
        self._first: dict[str, Comparison] = {}
        #: Sale that was found quiet -> its stamp; the sale is quiet while it keeps the stamp.
        self._quiet: dict[str, ChangeStamp] = {}
        #: Sale -> monotonic time of its next comparison.
        self._due: dict[str, float] = {}
        self._in_flight: dict[str, asyncio.Task[list[Difference]]] = {}
        self._slots = asyncio.Semaphore(COMPARISONS_MAX)

    async def run(self, stop: asyncio.Event) -> None:
        """Compare until `stop` is set; then cancel the comparisons in flight."""
        try:
            await PollRole("reconcile", self.run_once, idle_s=COMPARISONS_APART_S).run(stop)
        finally:
            await self._cancel()

    async def run_once(self) -> Polled:
        """Compare each sale that is due, and repair what two comparisons agree on."""
        return Polled(sum(map(len, (await self.compare()).values())), more=False)

    async def compare(self) -> dict[str, list[Difference]]:
        """Begin to compare each sale that is due; return what was repaired, or would have been.

        The result of a comparison that lasts longer than a pass is returned by a later call.
        """
        if not await self._has_lock():
            await self._cancel()  # the process that has the lock begins the same comparisons
            return {}
        live = await listing.live_ids(self._db)
        states = await fencing.survey(self._redis, self._db, live)
        for sale_id in await quiet.mark_small(self._redis, self._db, states):
            del states[sale_id]
            self._forget(sale_id)
        for sale_id, standing in states.items():
            is_due = time.monotonic() >= self._due.get(sale_id, 0.0)
            if not is_due or sale_id in self._in_flight:
                continue
            if standing.stamp is None or standing.stamp == self._quiet.get(sale_id):
                self._first.pop(sale_id, None)
                continue
            self._in_flight[sale_id] = asyncio.create_task(
                self._compare(sale_id, standing), name=f"compare {sale_id}"
            )
        if self._in_flight:
            await asyncio.wait(self._in_flight.values(), timeout=PASS_S)
        acted: dict[str, list[Difference]] = {}
        for sale_id in [sale_id for sale_id, task in self._in_flight.items() if task.done()]:
            self._due[sale_id] = time.monotonic() + COMPARISONS_APART_S
            if differences := self._in_flight.pop(sale_id).result():
                acted[sale_id] = differences
        return acted

    def _forget(self, sale_id: str) -> None:
        """Keep nothing of a sale that is quiet from now on."""
        self._first.pop(sale_id, None)
        self._quiet.pop(sale_id, None)
        self._due.pop(sale_id, None)

    async def _compare(self, sale_id: str, standing: SaleState) -> list[Difference]:
        first, stamp = self._first.pop(sale_id, None), standing.stamp
        if stamp is None:
            raise AssertionError(f"bug: sale {sale_id} is not whole")
        async with self._slots:
            share = SHARE / min(COMPARISONS_MAX, len(self._in_flight))
            now = await diff.compare_sale(
                self._redis, self._db, sale_id, age_ms=self._age_ms, share=share
            )
        if now.is_quiet:
            self._quiet[sale_id] = stamp
            await quiet.mark(self._redis, self._db, {sale_id: standing})
            return []
        found = diff.in_both(first, now) if first else []
        if found and self._applies:
            done = await self._reconciler.repair(sale_id, stamp.epoch, found, share=share)
            for action, count in (+done).items():
                log.warning("sale %s: %s %d (%s)", sale_id, action, count, REASONS[action])
            return found  # `now` is forgotten: the next repair needs two comparisons of its own
        if found:
            log.warning(
                "sale %s: the stores disagree on %d orders; look: seckill reconcile %s",
                sale_id,
                len(found),
                sale_id,
            )
        self._first[sale_id] = now
        return found

    async def _cancel(self) -> None:
        """Cancel the comparisons in flight; they and a repair may stop between any two steps."""
        for task in self._in_flight.values():
            task.cancel()
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        self._in_flight.clear()

    async def _has_lock(self) -> bool:
        """Keep or take the lock; without it several processes would only do the same work."""
        with redis_errors_as_unavailable():
            if await self._lock.owned():
                with suppress(LockError):  # it has just expired: take it anew
                    await self._lock.reacquire()
                    return True
            return bool(await self._lock.acquire())


def build(stores: Resources) -> Role:
    """Return the role: the fence, the survey, the comparisons, and the archive."""
    count = partial(count_waiting, stores.consuming, *topology.GRAB_QUEUES)
    reconciler = Reconciler(stores.redis, stores.db, stores.publisher, count, actor="reconcile")
    role = Reconcile(
        stores.redis,
        stores.db,
        reconciler,
        age_ms=int(stores.settings.reconcile_age_s * 1000),
        applies=stores.settings.reconcile_applies,
    )
    parts = (
        restore_watch.build(stores),
        fence.build(stores),
        survey.build(stores),
        role,
        archive.build(stores),
    )
    return RoleGroup(list(parts))
