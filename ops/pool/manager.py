"""The pool manager behind `seckill pool`: it does what is asked, and shows how the roles fare.

Nothing is lost with it. The plan is in `<home>/pool.json`, which the manager alone reads and
writes; work is on the broker and in the stores; a worker whose manager is gone drains and ends.
So a manager may be killed and started again at any time.
"""

from __future__ import annotations

import asyncio
import copy
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial

from aiohttp import ClientSession
from redis.asyncio import Redis

from config.settings import Settings
from consumers.main import default_roles
from ops.pool import autoscaler
from ops.pool.autoscaler import Reading, Trend
from ops.pool.heartbeat import reports
from ops.pool.metrics import Figures, running_roles
from ops.pool.plan import PoolPlan, load_plan
from ops.pool.workers import Workers
from ops.processes import pid_files
from ops.processes.control_socket import Reply
from ops.processes.home import only_pool_manager
from ops.processes.requests import PoolRequest, pool_socket
from ops.processes.supervision import Log
from seckill.adapters import namespace, postgres
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker
from seckill.errors import SeckillError
from seckill.health.backlogs import Backlogs
from seckill.process import notify_ready
from seckill.registry.heartbeat import reporting
from seckill.single_flight import SingleFlight

#: The autoscaler looks this often. A look costs some milliseconds of this process and the stores.
LOOK_S = 2.0
#: Figures that are younger than this are not read again.
FRESH_S = 0.2
#: A store that takes longer to be looked at is unavailable, as far as an operator is concerned.
STORE_S = 2.0


async def run_pool(settings: Settings, each: int | None, log: Log) -> None:
    """Run a pool in `settings.home` until cancelled, or until it is asked to stop.

    It begins with `each` of every role; None: it goes on as the last pool was.
    """
    home = settings.home.absolute()
    with only_pool_manager(home):
        # Those of a manager that was killed drain by themselves; two may not have one name.
        await asyncio.to_thread(pid_files.end_leftovers, home / "run", "consumers-*")
        if each is not None:
            PoolPlan(each=each).save(home)
        plan = load_plan(home, default_roles(settings))
        pid_file = home / "run" / "pool.pid"
        pid_files.write(pid_file, os.getpid(), signal.SIGTERM)
        async with AsyncExitStack() as stack:
            stack.callback(pid_file.unlink, missing_ok=True)
            figures = Figures(await stack.enter_async_context(ClientSession()))
            redis, backlogs = await _open_backlogs(settings, stack)
            pool = Pool(settings, plan, figures, backlogs, log)
            report = reports(settings, lambda: pool.roles)
            await stack.enter_async_context(reporting(redis, report))
            await pool.run(partial(notify_ready, settings.notify_socket))


class Pool:
    """Follows the plan, changes it, and shows what comes of it."""

    def __init__(
        self, settings: Settings, plan: PoolPlan, figures: Figures, backlogs: Backlogs, log: Log
    ) -> None:
        self._home = settings.home.absolute()
        self._plan = plan
        self._figures = figures
        self._backlogs = backlogs
        self._log = log
        self._workers = Workers(settings, log)
        self._since = datetime.now(UTC)
        self._trends: dict[str, Trend] = {}
        #: The rows of roles as of the last look.
        self.roles: list[Reply] = []
        self._looking = SingleFlight(self._look, interval_s=FRESH_S)
        self._stop = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled or asked to stop; call `ready` when each worker was tried once."""
        control = pool_socket(self._home)
        async with control.serving(PoolRequest, self.handle), self._workers.running():
            try:
                self._workers.follow(self._plan)
                await self._workers.tried()
                ready()
                await self._watch()
            finally:
                self._stop.set()  # no change comes from now on

    async def handle(self, request: PoolRequest) -> Reply:
        """Do what is asked through the control socket."""
        if self._stop.is_set():
            raise SeckillError("the pool is stopping")
        if request.op == "status":
            return await self._status()
        if request.op == "overview":
            return {"pid": os.getpid(), "workers": [each.shown() for each in self._workers]}
        if request.op == "restart":
            await self._workers.restart()
        elif request.op == "stop":
            self._stop.set()  # who asked waits for the end of this process
        else:
            self._change(request)
        return {"ok": True}

    def _change(self, request: PoolRequest) -> None:
        plan = copy.deepcopy(self._plan)  # all of it or nothing
        if request.op == "scale":
            for role, (low, high) in request.counts.items():
                plan.scale(role, low, high)
        else:
            plan.pause(request.roles, paused=request.op != "resume")
        self._adopt(plan)

    def _adopt(self, plan: PoolPlan) -> None:
        """Save a plan, then follow it."""
        plan.save(self._home)
        for role, duty in plan.duties.items():
            if duty != (before := self._plan.duties[role]):
                self._log(f"{role}: {before} -> {duty}")
        self._plan = plan
        self._workers.follow(plan)

    async def _watch(self) -> None:
        """Scale the roles that have bounds, until asked to stop."""
        while not self._stop.is_set():
            _, roles = await self._looking.recent()
            plan = copy.deepcopy(self._plan)
            for figures in roles:
                duty, role = plan.duties[figures["role"]], figures["role"]
                if duty.min is None or duty.max is None or duty.paused:
                    continue
                reading = Reading(figures["backlog"], figures["oldest_age_s"], figures["held"])
                duty.wanted, self._trends[role] = autoscaler.decide(
                    duty.wanted, duty.min, duty.max, reading, self._trends.get(role, Trend())
                )
            if plan != self._plan:
                self._adopt(plan)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_S)

    async def _look(self) -> tuple[list[Reply], list[Reply]]:
        """Ask the workers and the stores; return the rows of workers and of roles."""
        admin_urls = {each.child.pid: each.admin_url for each in self._workers if each.child.pid}
        figures, backlogs = await asyncio.gather(
            self._figures.scrape(admin_urls), self._backlogs.read()
        )
        workers = [
            {
                **each.shown(),
                "roles": running_roles(here := figures.get(each.child.pid or 0)),
                "answers": here is not None,
                "age_s": round(each.child.age_s, 1) if each.child.pid else None,
                "restarts": each.child.restarts,
            }
            for each in self._workers
        ]
        roles = [
            self._figures.of_role(
                role, duty, figures.values(), backlogs.get(role), self._workers.restarts[role]
            )
            for role, duty in self._plan.duties.items()
        ]
        self.roles = roles
        return workers, roles

    async def _status(self) -> Reply:
        workers, roles = await self._looking.now()
        manager = {
            "pid": os.getpid(),
            "since": self._since.isoformat(timespec="seconds"),
            "uptime_s": round((datetime.now(UTC) - self._since).total_seconds(), 1),
        }
        return {"manager": manager, "roles": roles, "workers": workers}


async def _open_backlogs(settings: Settings, stack: AsyncExitStack) -> tuple[Redis, Backlogs]:
    """Open what the backlogs are read from; any store may be unavailable."""
    namespace.use(settings.namespace)
    redis = redis_client.connect(settings.redis_url, timeout_s=STORE_S)
    stack.push_async_callback(redis.aclose)
    pool = postgres.connect(settings.postgres_dsn, size=2, timeout_s=STORE_S, at_once=False)
    db = await stack.enter_async_context(pool)
    backlogs = Backlogs(redis, db, Broker(settings.amqp_url, "seckill-pool", STORE_S))
    stack.push_async_callback(backlogs.close)
    return redis, backlogs
