"""What every role is, and how its work is held while a store is unavailable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from seckill import metrics
from seckill.backoff import Backoff
from seckill.errors import Unavailable

log = logging.getLogger(__name__)

#: Waits while a store is unavailable: quick for a restart, not a hammer for an outage.
HOLD = Backoff(0.2, 2.0, shares=(1.0, 1.0))


class Role(Protocol):
    """A long-running part of the consumer process."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in hand and return."""


async def until_available(
    work: Callable[[], Awaitable[None]], name: str, stop: asyncio.Event
) -> bool:
    """Run `work` again while a store is away; False when told to stop before it succeeded."""
    held = metrics.ROLE_HELD.labels(name)
    failures = 0
    try:
        while True:
            try:
                await work()
            except Unavailable as error:
                failures += 1
                if failures == 1:
                    log.warning("%s pauses: %s", name, error)
                    metrics.ROLE_ERRORS.labels(name).inc()
                    held.set(1)
                await pause(stop, HOLD.wait_s(failures))
                if stop.is_set():
                    return False
            else:
                if failures:
                    log.warning("%s resumes", name)
                return True
    finally:
        held.set(0)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not longer than until `stop` is set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


class RoleGroup:
    """Several roles run as one; the first to fail ends them all."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self._roles = roles

    async def run(self, stop: asyncio.Event) -> None:
        """Run all of them until told to stop."""
        async with asyncio.TaskGroup() as group:
            for role in self._roles:
                group.create_task(role.run(stop))
