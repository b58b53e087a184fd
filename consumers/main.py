"""One consumer process: the chosen roles, and their end."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import uvloop
from prometheus_client import start_http_server

from config.field_types import KEY_EXPIRY
from config.settings import Settings
from consumers.registry import BUILDERS, SETTLE_PAYMENTS
from consumers.resources import open_resources
from consumers.runtime.role_supervisor import RoleSupervisor, assignments
from seckill.errors import UserMistake
from seckill.process import listening, notify_ready, stop_on_signals

log = logging.getLogger(__name__)

#: The names that `seckill consumers` takes.
ROLES = tuple(BUILDERS)


def default_roles(settings: Settings) -> tuple[str, ...]:
    """Return the roles that run when none is named: all that have something to do."""
    idle = set() if KEY_EXPIRY in settings.timeouts else {KEY_EXPIRY}
    if not settings.provider_url:
        idle.add(SETTLE_PAYMENTS)
    return tuple(role for role in ROLES if role not in idle)


def known(roles: Sequence[str]) -> Sequence[str]:
    """Return the names, or raise UserMistake naming those that are no roles."""
    if unknown := [role for role in roles if role not in ROLES]:
        raise UserMistake(f"no role {', '.join(unknown)}; there are: {', '.join(ROLES)}")
    return roles


def run(settings: Settings, roles: Sequence[str], *, managed: bool = False) -> None:
    """Run roles until SIGTERM or SIGINT; raise SeckillError when a store is not there at start.

    A managed process begins with the given roles and then runs what comes on its stdin.
    """
    if SETTLE_PAYMENTS in roles and not settings.provider_url:
        raise UserMistake(f"{SETTLE_PAYMENTS} asks a card provider; set SECKILL_PROVIDER_URL")
    uvloop.run(_serve(settings, roles, managed=managed))


async def _serve(settings: Settings, roles: Sequence[str], *, managed: bool) -> None:
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        stores = await open_resources(settings, stack)
        with listening(settings.admin_host, settings.admin_port, "SECKILL_ADMIN_PORT"):
            start_http_server(settings.admin_port, settings.admin_host)
        gc.freeze()
        async with asyncio.TaskGroup() as group:  # one role's death stops the process, loudly
            crew = RoleSupervisor(lambda name: BUILDERS[name](stores), group, died=stop.set)
            crew.assign(roles)
            following = group.create_task(_follow(crew, stop)) if managed else None
            notify_ready(settings.notify_socket)
            await stop.wait()
            if following:
                following.cancel()
            crew.assign(())


async def _follow(crew: RoleSupervisor, stop: asyncio.Event) -> None:
    """Run what the pool manager assigns on our stdin; when it is gone, stop."""
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    async for roles in assignments(stdin):
        crew.assign(known(roles))
    log.info("the pool manager is gone")
    stop.set()
