"""The worker processes of a pool: started, assigned their roles, replaced and stopped."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from config.settings import Settings
from ops.pool.plan import PoolPlan
from ops.processes.child import Child
from ops.processes.liveness import LivenessWatch
from ops.processes.ports import free_port
from ops.processes.scrape_targets import write_targets
from ops.processes.supervision import DRAIN_MARGIN_S, Log, Supervisor
from ops.processes.tasks import together
from ops.processes.workers import worker
from seckill.errors import SeckillError


@dataclass(slots=True, eq=False)
class PoolWorker:
    """One worker process, and whatever succeeds it when it dies."""

    number: int
    child: Child
    admin_url: str
    #: What it was assigned, and what of that is paused.
    roles: list[str] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    #: The plan has it.
    wanted: bool = False
    #: Set once it has been tried to start it; None while it should not run.
    tried: asyncio.Event | None = None
    #: One start or stop at a time: scaled down and up again, it ends before it starts.
    change: asyncio.Lock = field(default_factory=asyncio.Lock)

    def shown(self) -> dict[str, Any]:
        """Return what `seckill status` shows of it."""
        return {
            "name": self.child.name,
            "role": "consumers",
            "pid": self.child.pid,
            "admin_url": self.admin_url,
        }


class Workers:
    """As many as the plan wants; each change gets there by itself."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._supervisor = Supervisor(log, ended=self._count)
        self._workers: dict[int, PoolWorker] = {}
        self._liveness = LivenessWatch(
            lambda: {each.child: each.admin_url for each in self}, settings.liveness_s, log
        )
        self._restarting = False
        #: Role -> how often a worker that ran it had to be started again.
        self.restarts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[PoolWorker]:
        """Go through the workers that the plan has."""
        return iter([each for each in self._workers.values() if each.wanted])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the workers alive; in the end let each finish its batch, all at once."""
        async with self._supervisor.running(), asyncio.TaskGroup() as self._changes:
            watching = self._changes.create_task(self._liveness.run(), name="liveness")
            try:
                yield
            finally:
                watching.cancel()
                self._log("stopping")
                for each in self:
                    each.wanted = False  # also if it is being restarted
                self._write_targets()
                await together(*(self._settle(each) for each in list(self._workers.values())))

    def follow(self, plan: PoolPlan) -> None:
        """Start, stop, and assign each its roles; returns at once."""
        for number in range(1, plan.workers + 1):
            if number not in self._workers:
                self._workers[number] = self._describe(number)
        for number, each in self._workers.items():
            each.wanted = number <= plan.workers
            assignment = plan.roles_of(number), plan.paused_of(number)
            if each.wanted and assignment != (each.roles, each.paused):
                each.roles, each.paused = assignment
                line = {"roles": each.roles, "paused": each.paused}
                each.child.write_line(json.dumps(line))
            self._changes.create_task(self._settle(each))
        self._write_targets()

    async def tried(self) -> None:
        """Return when each was started once, or failed to."""
        for each in self:
            await self._settle(each)
            if each.tried:
                await each.tried.wait()

    async def restart(self) -> None:
        """Replace one after the other, gracefully; SeckillError when one does not come back."""
        if self._restarting:
            raise SeckillError("a restart is under way")
        self._restarting = True
        try:
            for each in self:
                async with each.change:
                    await self._stop(each)
                await self._settle(each)
                if each.tried:
                    await each.tried.wait()
                if each.wanted and each.child.pid is None:
                    raise SeckillError(f"{each.child.name} did not come back; the rest was left")
        finally:
            self._restarting = False

    def _describe(self, number: int) -> PoolWorker:
        port, home = free_port(), self._settings.home.absolute()
        overrides = {"SECKILL_HOME": str(home), "SECKILL_ADMIN_PORT": str(port)}
        child = worker("consumers", number, overrides, "--managed", home=home, listens=True)
        return PoolWorker(number, child, f"http://{self._settings.admin_host}:{port}")

    def _write_targets(self) -> None:
        admin_urls = {each.child.name: each.admin_url for each in self}
        write_targets(self._settings.home.absolute(), "consumers", admin_urls)

    async def _settle(self, each: PoolWorker) -> None:
        """Start or stop a worker, as the plan has it by now."""
        async with each.change:
            if each.wanted and not each.tried:
                each.tried = self._supervisor.start(each.child)
            elif each.tried and not each.wanted:
                await self._stop(each)
            if not each.wanted and self._workers.get(each.number) is each:
                del self._workers[each.number]

    async def _stop(self, each: PoolWorker) -> None:
        await self._supervisor.stop(each.child, self._settings.drain_s)
        each.tried = None
        if each.child.describe_end() == "was killed by SIGKILL":
            patience_s = self._settings.drain_s + DRAIN_MARGIN_S
            self._log(f"{each.child.name} had not drained after {patience_s:g} s and was killed")

    def _count(self, child: Child) -> None:
        """Count a restart to the roles that it interrupts."""
        for each in self:
            if each.child is child:
                self.restarts.update(each.roles)
