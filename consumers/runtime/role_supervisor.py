"""The roles that one process runs now; the set may change while the process runs.

A role that is no longer wanted finishes its batch, acknowledges it and ends; the process stays. A
role that ends although it is still wanted stops the process, loudly.
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


class Assignment(msgspec.Struct, frozen=True):
    """What a pool manager wants of a process."""

    #: All roles to run.
    roles: list[str]
    #: Roles that the process would run if they were not paused.
    paused: list[str] = []


class RoleSupervisor:
    """Runs each wanted role as a task of the group, until it is no longer wanted."""

    def __init__(
        self, build: Callable[[str], Role], group: asyncio.TaskGroup, died: Callable[[], None]
    ) -> None:
        self._build = build
        self._group = group
        #: Called when a role ended although it was still wanted.
        self._died = died
        self._wanted: frozenset[str] = frozenset()
        #: The roles that run now, each with its stop event.
        self._stops: dict[str, asyncio.Event] = {}

    @property
    def roles(self) -> list[str]:
        """Return the roles that are wanted."""
        return sorted(self._wanted)

    def assign(self, roles: Collection[str]) -> None:
        """Run these roles and no others; return at once."""
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
        """Run a role; run it again if it became wanted again before it had stopped."""
        role = self._build(name)
        running = metrics.ROLE_RUNNING.labels(name)
        try:
            while name in self._wanted:
                stop = self._stops[name] = asyncio.Event()
                running.set(1)
                # The group alone would not notice a role that a library cancelled.
                try:
                    await role.run(stop)
                finally:
                    running.set(0)
                    if not stop.is_set():
                        log.critical("role %s ended although nothing stopped it", name)
                        self._wanted -= {name}
                        self._died()
        finally:
            del self._stops[name]


async def assignments(stdin: asyncio.StreamReader) -> AsyncIterator[Assignment]:
    """Yield the assignments of a pool manager, each a line of JSON.

    End when the manager is gone. Raise SeckillError if a line is no assignment.
    """
    while line := await stdin.readline():
        try:
            yield _decode(line)
        except msgspec.MsgspecError as error:
            raise SeckillError(f"the pool manager sent no assignment: {error}") from error


_decode = msgspec.json.Decoder(Assignment).decode
