"""The supervisor behind `seckill up`: stores, schema, settings file, gateways, pool manager.

One process starts everything, starts again what dies, and stops it in the order in which nothing
is lost: gateways (answers in flight), consumers (batches in flight), stores. `pool stop` and
`pool start` ask this process, so it alone knows whether there should be a pool.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings, save_stack_settings
from ops.processes.child import Child
from ops.processes.control_socket import Reply
from ops.processes.home import only_pool_manager, only_supervisor
from ops.processes.liveness import LivenessWatch
from ops.processes.ports import free_port
from ops.processes.requests import StackRequest, stack_socket
from ops.processes.scrape_targets import write_targets
from ops.processes.supervision import DRAIN_MARGIN_S, Log, Supervisor
from ops.processes.workers import pool_child, worker
from ops.stack.services import Services, running_services
from ops.stack.settings import StackSettings, stack_settings
from seckill.adapters import migrations
from seckill.consistency import requirements
from seckill.errors import SeckillError


@dataclass(frozen=True, slots=True)
class StackListener:
    """What is called as the stack fares."""

    #: Something happened that a person may want to read.
    log: Log
    #: Everything answers; called once.
    ready: Callable[[StackSettings], None]
    #: Something started, ended or became ready.
    changed: Callable[[Reply], None] = lambda _: None


async def run_stack(
    settings: Settings, gateways: int, consumers: int, listener: StackListener
) -> None:
    """Run a stack in `settings.home` until cancelled."""
    home = settings.home.absolute()
    with only_supervisor(home):
        stop_s = settings.stop_delay_s + settings.drain_s
        stack = Stack(home, listener, consumers, stop_s, settings.liveness_s)
        async with stack_socket(home).serving(StackRequest, stack.handle):
            listener.log("starting Redis, RabbitMQ and PostgreSQL")
            async with running_services(home) as services:
                await migrations.migrate(services.postgres_dsn)
                # Otherwise every process would fail with the same line, and be started again.
                await requirements.require(settings.model_copy(update=services.urls))
                values = stack_settings(settings, home, services.urls)
                save_stack_settings(home, values)
                await stack.run(services, values, gateways)


class Stack:
    """What runs of a stack: kept alive, shown, and changed as it is asked."""

    def __init__(
        self,
        home: Path,
        listener: StackListener,
        consumers: int,
        drain_s: float,
        liveness_s: float,
    ) -> None:
        self._home = home
        self._listener = listener
        self._drain_s = drain_s
        self._supervisor = Supervisor(listener.log, changed=self._changed)
        self._services = Services({})
        #: Gateways, each with the URL of its admin port.
        self._gateways: dict[Child, str] = {}
        self._liveness = LivenessWatch(lambda: self._gateways, liveness_s, listener.log)
        self._pool = pool_child(home)
        self._begin_with(consumers)  # what is typed now holds, not what was some day
        self._ready = self._stopping = False
        #: `pool stop` was asked for, and `pool start` not since.
        self._pool_stopped = False
        #: One change of that at a time: a manager ends before the next one starts.
        self._pool_change = asyncio.Lock()

    async def run(self, services: Services, values: StackSettings, gateways: int) -> None:
        """Start the workers and keep everything alive until cancelled."""
        self._services = services
        self._describe_gateways(values, gateways)
        admin_urls = {child.name: url for child, url in self._gateways.items()}
        write_targets(self._home, "gateway", admin_urls)
        self._listener.log("starting gateways and consumers")
        async with self._supervisor.running():
            try:
                for store in services.children:
                    self._supervisor.keep(store)
                await self._supervisor.start_all([*self._gateways, self._pool])
                self._ready = True
                self._changed()
                self._listener.ready(values)
                await self._liveness.run()  # until cancelled
            finally:
                self._stopping = True
                self._listener.log("stopping")
                write_targets(self._home, "gateway", {})
                await self._supervisor.stop_all([*self._gateways], self._drain_s)
                await self._end_pool()

    async def handle(self, request: StackRequest) -> Reply:
        """Do what is asked through the control socket."""
        if request.op == "status":
            return self._state()
        async with self._pool_change:
            if self._stopping:
                raise SeckillError(f"the stack (pid {os.getpid()}) is stopping")
            if request.op == "start_pool":
                self._start_pool(request.consumers)
            else:
                await self._stop_pool()
        return {"ok": True}

    def _start_pool(self, consumers: int | None) -> None:
        with only_pool_manager(self._home):  # after a crash the supervisor starts it anyway
            self._begin_with(consumers)
        if self._pool_stopped:
            self._pool_stopped = False
            self._listener.log("starting pool again, as asked")
            self._supervisor.start(self._pool)

    async def _stop_pool(self) -> None:
        if not self._ready:
            raise SeckillError(f"the stack (pid {os.getpid()}) is starting")
        self._pool_stopped = True
        await self._end_pool()
        self._listener.log("pool was asked to end, and is left alone")
        self._changed()

    async def _end_pool(self) -> None:
        await self._supervisor.stop(self._pool, self._drain_s + DRAIN_MARGIN_S)  # for its workers

    def _begin_with(self, consumers: int | None) -> None:
        """Let the next manager begin with so many of each role; None: go on as it was."""
        self._pool.once = [] if consumers is None else ["--consumers", str(consumers)]

    def _describe_gateways(self, values: StackSettings, count: int) -> None:
        # Metrics and health are of one process, so each has an admin port of its own; the
        # advertised one is the first gateway's.
        for number in range(1, count + 1):
            port = values["admin_port"] if number == 1 else free_port()
            overrides = {
                "SECKILL_HOME": str(self._home),
                "SECKILL_GATEWAY_PORT": str(values["gateway_port"]),
                "SECKILL_ADMIN_PORT": str(port),
            }
            child = worker("gateway", number, overrides, home=self._home)
            self._gateways[child] = f"http://{values['admin_host']}:{port}"

    def _changed(self) -> None:
        self._listener.changed(self._state())

    def _state(self) -> Reply:
        """Return what runs; there is no pid of what restarts, or of a store that was given.

        Which workers the pool has its manager knows: `requests.pool_overview`.
        """
        return {
            "pid": os.getpid(),
            "ready": self._ready,
            "services": [
                {"name": name, "pid": self._services.pid(name), "address": store.address}
                for name, store in self._services.stores.items()
            ],
            "processes": [
                {"name": child.name, "role": "gateway", "pid": child.pid, "admin_url": admin_url}
                for child, admin_url in self._gateways.items()
            ],
            "pool": {"name": self._pool.name, "pid": self._pool.pid},
        }
