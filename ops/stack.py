"""The supervisor behind `seckill up`: stores, schema, settings file, gateways, consumers.

One process starts everything, starts again what dies, and stops it in the order in which nothing
is lost: gateways (answers in hand), consumers (batches in hand), stores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import Settings, save_stack_settings
from ops.children import Child
from ops.credentials import load_credentials
from ops.home import State, held, publish
from ops.keeper import Say, keep
from ops.ports import free_port
from ops.services import Services, given_settings, running_services
from ops.tasks import together
from ops.workers import keep_all, stop_all, worker
from seckill import database

#: What `<home>/settings.json` holds: the settings of every process of the stack.
StackSettings = dict[str, object]


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how the stack fares."""

    #: Something happened that a person may want to read.
    say: Say
    #: Everything answers; called once.
    ready: Callable[[StackSettings], None]
    #: Something started, ended or became ready.
    changed: Callable[[State], None]


async def run_stack(settings: Settings, gateways: int, consumers: int, listener: Listener) -> None:
    """Run a stack in `settings.home` until cancelled."""
    home = settings.home.absolute()
    with held(home):
        listener.say("starting Redis, RabbitMQ and PostgreSQL")
        async with running_services(home) as services:
            await database.migrate(services.postgres_dsn)
            values = _stack_settings(settings, services, home)
            save_stack_settings(home, values)
            stack = _Stack(home, services, values, listener)
            stack.gateways += [stack.worker("gateway", n + 1) for n in range(gateways)]
            stack.consumers += [stack.worker("consumers", n + 1) for n in range(consumers)]
            await stack.run(settings.drain_s)


@dataclass(slots=True)
class _Stack:
    """A stack whose stores are up."""

    home: Path
    services: Services
    values: StackSettings
    listener: Listener
    gateways: list[Child] = field(default_factory=list)
    consumers: list[Child] = field(default_factory=list)
    ready: bool = False

    def worker(self, command: str, number: int) -> Child:
        # Metrics and health are of one process, so each has an admin port of its own; the
        # advertised one is the first gateway's.
        advertised = (command, number) == ("gateway", 1)
        overrides = {
            "SECKILL_HOME": str(self.home),
            "SECKILL_GATEWAY_PORT": str(self.values["gateway_port"]),
            "SECKILL_ADMIN_PORT": str(self.values["admin_port"] if advertised else free_port()),
        }
        return worker(command, number, overrides, home=self.home)

    async def run(self, drain_s: float) -> None:
        """Start the workers and keep everything alive until cancelled."""
        say = self.listener.say
        say("starting gateways and consumers")
        try:
            await together(
                *(keep(child, say, self.changed) for child in self.services.children),
                keep_all([*self.gateways, *self.consumers], say, self.started, self.changed),
            )
        finally:
            say("stopping")
            await stop_all(self.gateways, drain_s)
            await stop_all(self.consumers, drain_s)

    def started(self) -> None:
        self.ready = True
        self.changed()
        self.listener.ready(self.values)

    def changed(self) -> None:
        state = State(
            ready=self.ready,
            services=[
                {"name": name, "pid": self.services.pid(name), "address": store.address}
                for name, store in self.services.stores.items()
            ],
            processes=[
                {"name": child.name, "role": role, "pid": child.pid}
                for role, children in (("gateway", self.gateways), ("consumers", self.consumers))
                for child in children
            ],
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
        "admin_token": given.get("admin_token", credentials.admin_token),
    }
