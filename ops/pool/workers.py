"""The worker processes of a pool: hired, kept alive, told their roles, replaced and let go."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from config.settings import Settings
from ops.pool.plan import PoolPlan
from ops.processes.child import Child, StartFailed
from ops.processes.ports import free_port
from ops.processes.restarts import Say, keep
from ops.processes.tasks import together
from ops.processes.workers import DRAIN_MARGIN_S, worker
from seckill.errors import SeckillError


@dataclass(slots=True, eq=False)
class PoolWorker:
    """One worker process, and whatever succeeds it when it dies."""

    number: int
    child: Child
    admin_url: str
    #: What it was told to run.
    roles: list[str] = field(default_factory=list)
    #: Set once it has been tried to start it.
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    #: Restarts that its roles have been charged with.
    charged: int = 0
    keeper: asyncio.Task[None] = field(init=False)

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

    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._hired: dict[int, PoolWorker] = {}
        #: Number -> what ends the worker that had it. Its successor starts afterwards.
        self._leaving: dict[int, asyncio.Task[None]] = {}
        #: All whose processes may run.
        self._alive: set[PoolWorker] = set()
        self._restarting = False
        #: Role -> how often a worker that ran it had to be started again.
        self.restarts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[PoolWorker]:
        """Go through those who are wanted."""
        return iter(list(self._hired.values()))

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep alive whoever is hired; in the end let each finish its batch, all at once."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                yield
                for task in (*(each.keeper for each in self), *self._leaving.values()):
                    task.cancel()
        finally:
            self._say("stopping")
            self._hired.clear()  # who is being restarted is not started again
            await together(*(self._stop(each) for each in self._alive))

    def follow(self, plan: PoolPlan) -> None:
        """Hire, let go, and tell each its roles; returns at once."""
        for number in [n for n in self._hired if n > plan.workers]:
            self._let_go(self._hired.pop(number))
        for number in range(1, plan.workers + 1):
            if number not in self._hired:
                self._hire(number)
            self._assign(self._hired[number], plan.roles_of(number))

    async def tried(self) -> None:
        """Return when each was started once, or failed to."""
        for each in self:
            await each.tried.wait()

    async def restart(self) -> None:
        """Replace one after the other, gracefully; SeckillError when one does not come back."""
        if self._restarting:
            raise SeckillError("a restart is under way")
        self._restarting = True
        try:
            for each in self:
                each.keeper.cancel()
                await asyncio.wait({each.keeper})
                await self._stop(each)
                if self._hired.get(each.number) is not each:
                    continue  # let go meanwhile
                self._start(each)
                await each.tried.wait()
                if each.child.pid is None:
                    raise SeckillError(f"{each.child.name} did not come back; the rest was left")
        finally:
            self._restarting = False

    def _hire(self, number: int) -> None:
        port = free_port()
        overrides = {
            "SECKILL_HOME": str(self._settings.home.absolute()),
            "SECKILL_ADMIN_PORT": str(port),
        }
        home = self._settings.home.absolute()
        child = worker("consumers", number, overrides, "--managed", home=home, listens=True)
        hired = PoolWorker(number, child, f"http://{self._settings.admin_host}:{port}")
        self._hired[number] = hired
        self._alive.add(hired)
        self._start(hired)

    def _assign(self, each: PoolWorker, roles: list[str]) -> None:
        if roles != each.roles:
            each.roles = roles
            each.child.tell(json.dumps(roles))

    def _start(self, each: PoolWorker) -> None:
        each.tried.clear()
        predecessor = self._leaving.get(each.number)
        each.keeper = self._tasks.create_task(self._keep(each, predecessor), name=each.child.name)

    async def _keep(self, each: PoolWorker, predecessor: asyncio.Task[None] | None) -> None:
        """Start a worker and keep it alive, once nobody else has its name and files."""
        if predecessor:
            await asyncio.wait({predecessor})
        try:
            await each.child.start()
        except StartFailed as failure:
            self._say(str(failure))
        finally:
            each.tried.set()
        await keep(each.child, self._say, partial(self._charge, each))

    def _let_go(self, each: PoolWorker) -> None:
        each.keeper.cancel()
        ending = self._end(each, self._leaving.get(each.number))
        self._leaving[each.number] = self._tasks.create_task(ending, name=f"{each.child.name} end")

    async def _end(self, each: PoolWorker, predecessor: asyncio.Task[None] | None) -> None:
        if predecessor:
            await asyncio.wait({predecessor})
        await self._stop(each)
        self._alive.discard(each)

    async def _stop(self, each: PoolWorker) -> None:
        patience_s = self._settings.drain_s + DRAIN_MARGIN_S
        await each.child.stop(patience_s)
        if each.child.describe_end() == "was killed by SIGKILL":
            self._say(f"{each.child.name} had not drained after {patience_s:g} s and was killed")

    def _charge(self, each: PoolWorker) -> None:
        """Count a restart to the roles that it interrupted."""
        new, each.charged = each.child.restarts - each.charged, each.child.restarts
        self.restarts.update(dict.fromkeys(each.roles, new))
