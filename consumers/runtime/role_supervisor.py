"""The roles that one process runs now: they may change while it runs.

A role that is taken away finishes its batch, acknowledges it, and ends; the process stays. A role
that ends although nobody took it away takes the process with it, loudly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection

import msgspec

from consumers.runtime.role import Role
from seckill import metrics
from seckill.errors import SeckillError

log = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(list[str]).decode


class RoleSupervisor:
    """Runs each wanted role as a task of the group, until it is wanted no more."""

    def __init__(
        self, build: Callable[[str], Role], group: asyncio.TaskGroup, died: Callable[[], None]
    ) -> None:
        self._build = build
        self._group = group
        #: Called when a role ended by itself.
        self._died = died
        self._wanted: frozenset[str] = frozenset()
        #: The roles that run, each with what tells it to stop.
        self._stops: dict[str, asyncio.Event] = {}

    def assign(self, roles: Collection[str]) -> None:
        """Run these roles and no others; returns at once."""
        self._wanted = frozenset(roles)
        for name in roles:
            if name not in self._stops:
                self._stops[name] = asyncio.Event()
                self._group.create_task(self._run(name), name=name)
        for name, stop in self._stops.items():
            if name not in self._wanted:
                stop.set()
        log.info("consumers: %s", ", ".join(roles) or "no role")

    async def _run(self, name: str) -> None:
        """Run a role; again when it was wanted back before it had stopped."""
        role = self._build(name)
        running = metrics.ROLE_RUNNING.labels(name)
        try:
            while name in self._wanted:
                stop = self._stops[name] = asyncio.Event()
                running.set(1)
                # A group would take a role that a library cancelled for one that ended.
                try:
                    await role.run(stop)
                finally:
                    running.set(0)
                    if not stop.is_set():
                        log.critical("role %s ended although nobody stopped it", name)
                        self._wanted -= {name}
                        self._died()
        finally:
            del self._stops[name]


async def assignments(stdin: asyncio.StreamReader) -> AsyncIterator[list[str]]:
    """Yield what a pool manager assigns: each line is a JSON list of roles, all that should run.

    Ends when the manager is gone; SeckillError for a line that is no such list.
    """
    while line := await stdin.readline():
        try:
            yield _decode(line)
        except msgspec.MsgspecError as error:
            raise SeckillError(f"the pool manager sent no list of roles: {error}") from error
