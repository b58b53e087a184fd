"""One consumer process: it runs the chosen roles until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import uvloop

from config.field_types import KEY_EXPIRY
from config.settings import Settings
from consumers.admin import ConsumerHealth
from consumers.heartbeat import reports
from consumers.registry import BUILDERS
from consumers.resources import open_resources
from consumers.runtime.role_supervisor import RoleSupervisor, assignments
from seckill.admin_port import answering_health
from seckill.errors import UserMistake
from seckill.health.waiting import until_startable
from seckill.payments.providers import access_of
from seckill.process import notify_ready, stop_on_signals
from seckill.registry.heartbeat import reporting
from seckill.tracing.starting import tracing

#: The names that `seckill consumers` takes.
ROLES = tuple(BUILDERS)
#: The role that only a shop with a card provider needs.
SETTLE_PAYMENTS = "settle_payments"

log = logging.getLogger(__name__)


def default_roles(settings: Settings) -> tuple[str, ...]:
    """Return the roles that run when none is named: all that have something to do."""
    idle = set() if KEY_EXPIRY in settings.timeouts else {KEY_EXPIRY}
    if access_of(settings) is None:
        idle.add(SETTLE_PAYMENTS)
    return tuple(role for role in ROLES if role not in idle)


def known(roles: Sequence[str]) -> Sequence[str]:
    """Return the names, or raise UserMistake naming those that are no roles."""
    if unknown := [role for role in roles if role not in ROLES]:
        raise UserMistake(f"no role {', '.join(unknown)}; there are: {', '.join(ROLES)}")
    return roles


def run(settings: Settings, roles: Sequence[str], *, managed: bool = False) -> None:
    """Run roles until SIGTERM or SIGINT; raise SeckillError if it cannot start.

    A managed process begins with the given roles, and then runs those that its stdin assigns.
    """
    if SETTLE_PAYMENTS in roles and access_of(settings) is None:
        raise UserMistake(
            f"{SETTLE_PAYMENTS} asks a card provider; set SECKILL_PROVIDER_URL, or "
            "SECKILL_PROVIDER=stripe and SECKILL_STRIPE_KEY"
        )
    uvloop.run(_serve(settings, roles, managed=managed))


async def _serve(settings: Settings, roles: Sequence[str], *, managed: bool) -> None:
    stop = stop_on_signals()
    if not await until_startable(settings, stop):
        return
    async with AsyncExitStack() as stack:
        stack.enter_context(tracing(settings, "consumer"))
        stores = await open_resources(settings, stack)
        group = asyncio.TaskGroup()  # if one role fails, the process stops loudly
        supervisor = RoleSupervisor(lambda name: BUILDERS[name](stores), group, died=stop.set)
        health = ConsumerHealth.of(stores, supervisor, stop)
        await stack.enter_async_context(answering_health(settings, health.readiness))
        await stack.enter_async_context(health.watch.running())
        await stack.enter_async_context(reporting(stores.redis, reports(settings, health)))
        gc.freeze()
        async with group:
            supervisor.assign(roles)
            following = group.create_task(_follow(supervisor, health)) if managed else None
            notify_ready(settings.notify_socket)
            await stop.wait()
            if following:
                following.cancel()
            supervisor.assign(())


async def _follow(supervisor: RoleSupervisor, health: ConsumerHealth) -> None:
    """Run the roles that the pool manager assigns on stdin; stop when the manager is gone."""
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    async for assignment in assignments(stdin):
        health.paused = assignment.paused
        supervisor.assign(known(assignment.roles))
    log.info("the pool manager is gone")
    health.stop.set()
