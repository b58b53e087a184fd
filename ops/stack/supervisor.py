"""The supervisor behind `seckill up`: stores, schema, settings file, gateways, pool manager.

One process starts everything, starts again what dies, and stops it in the order in which nothing
is lost: gateways (answers in hand), consumers (batches in hand), stores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import PROJECT_ROOT, Settings, save_stack_settings
from ops.pool.plan import start_afresh
from ops.pool.start import wish
from ops.processes.child import Child, Spec
from ops.processes.home import StackState, held, publish
from ops.processes.ports import free_port
from ops.processes.restarts import Say, keep
from ops.processes.tasks import together
from ops.processes.workers import DRAIN_MARGIN_S, announced, keep_all, stop_all, worker
from ops.stack.credentials import load_credentials
from ops.stack.services import Services, given_settings, running_services
from seckill.adapters import migrations

#: What `<home>/settings.json` holds: the settings of every process of the stack.
StackSettings = dict[str, object]


@dataclass(frozen=True, slots=True)
class StackListener:
    """Who is told how the stack fares."""

    #: Something happened that a person may want to read.
    say: Say
    #: Everything answers; called once.
    ready: Callable[[StackSettings], None]
    #: Something started, ended or became ready.
    changed: Callable[[StackState], None]


async def run_stack(
    settings: Settings, gateways: int, consumers: int, listener: StackListener
) -> None:
    """Run a stack in `settings.home` until cancelled."""
    home = settings.home.absolute()
    with held(home):
        listener.say("starting Redis, RabbitMQ and PostgreSQL")
        async with running_services(home) as services:
            await migrations.migrate(services.postgres_dsn)
            values = _stack_settings(settings, services, home)
            save_stack_settings(home, values)
            start_afresh(home, consumers)  # what is typed now holds, not what was some day
            stack = _Stack(home, services, values, listener, pool_manager(home))
            stack.add_gateways(gateways)
            await stack.run(settings.drain_s)


@dataclass(slots=True)
class _Stack:
    """A stack whose stores are up."""

    home: Path
    services: Services
    values: StackSettings
    listener: StackListener
    pool: Child
    gateways: list[Child] = field(default_factory=list)
    admin_ports: list[object] = field(default_factory=list)
    ready: bool = False

    def add_gateways(self, count: int) -> None:
        # Metrics and health are of one process, so each has an admin port of its own; the
        # advertised one is the first gateway's.
        self.admin_ports = [self.values["admin_port"], *(free_port() for _ in range(1, count))]
        for number in range(1, count + 1):
            overrides = {
                "SECKILL_HOME": str(self.home),
                "SECKILL_GATEWAY_PORT": str(self.values["gateway_port"]),
                "SECKILL_ADMIN_PORT": str(self.admin_ports[number - 1]),
            }
            self.gateways.append(worker("gateway", number, overrides, home=self.home))

    async def run(self, drain_s: float) -> None:
        """Start the workers and keep everything alive until cancelled."""
        say = self.listener.say
        say("starting gateways and consumers")
        try:
            await together(
                *(keep(child, say, self.changed) for child in self.services.children),
                keep_all([*self.gateways, self.pool], say, self.started, self.changed),
            )
        finally:
            say("stopping")
            await stop_all(self.gateways, drain_s)
            await stop_all([self.pool], drain_s + DRAIN_MARGIN_S)  # it waits for its workers

    def started(self) -> None:
        self.ready = True
        self.changed()
        self.listener.ready(self.values)

    def changed(self) -> None:
        state = StackState(
            ready=self.ready,
            services=[
                {"name": name, "pid": self.services.pid(name), "address": store.address}
                for name, store in self.services.stores.items()
            ],
            processes=[
                {
                    "name": child.name,
                    "role": "gateway",
                    "pid": child.pid,
                    "admin_url": f"http://{self.values['admin_host']}:{port}",
                }
                for child, port in zip(self.gateways, self.admin_ports, strict=False)
            ],
            pool={"name": self.pool.name, "pid": self.pool.pid},
        )
        publish(self.home, state)
        self.listener.changed(state)


def _stack_settings(settings: Settings, services: Services, home: Path) -> StackSettings:
    """Compose what all processes of this stack, and commands beside it, should know.

    A port comes from the environment or is picked; the settings' own default would let only one
    stack run on a machine.
    """
    given = given_settings()
    credentials = load_credentials(home)
    gateway_port = int(given.get("gateway_port", 0)) or free_port()
    admin_port = int(given.get("admin_port", 0)) or free_port()
    scheme = "https" if settings.tls_cert else "http"
    return {
        "redis_url": services.redis_url,
        "amqp_url": services.amqp_url,
        "postgres_dsn": services.postgres_dsn,
        "gateway_host": settings.gateway_host,
        "gateway_port": gateway_port,
        "gateway_url": f"{scheme}://{settings.gateway_host}:{gateway_port}",
        "admin_host": settings.admin_host,
        "admin_port": admin_port,
        "admin_url": f"http://{settings.admin_host}:{admin_port}",
        "ticket_keys": given.get("ticket_keys") or credentials.ticket_keys,
        "jwt_keys": given.get("jwt_keys") or credentials.jwt_keys,
        "webhook_keys": given.get("webhook_keys") or credentials.webhook_keys,
        "admin_token": given.get("admin_token", credentials.admin_token),
    }


def pool_manager(home: Path) -> Child:
    """Describe `seckill pool start` as a child; it writes its pid file itself."""
    return announced(
        Spec(
            name="pool",
            argv=[sys.executable, "-m", "ops.cli", "pool", "start"],
            env={**os.environ, "SECKILL_HOME": str(home)},
            cwd=PROJECT_ROOT,
            log=home / "logs" / "pool.log",
            wish=wish(home),
        )
    )
