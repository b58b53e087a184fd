"""What every role is, and how its work is held while a store is unavailable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from seckill import metrics
from seckill.adapters.failures import store_failure
from seckill.backoff import Backoff
from seckill.outages import OUTAGES

#: Waits while a store is unavailable: short after a restart, and gentle during an outage.
HOLD = Backoff(0.2, 2.0, shares=(1.0, 1.0))

log = logging.getLogger(__name__)


class Role(Protocol):
    """A long-running part of the consumer process."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish the work in flight and return."""


class RoleGroup:
    """Several roles that run as one; if one of them fails, all of them end."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self._roles = roles

    async def run(self, stop: asyncio.Event) -> None:
        """Run all roles until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            for role in self._roles:
                group.create_task(role.run(stop))


async def until_available(
    work: Callable[[], Awaitable[None]], name: str, stop: asyncio.Event
) -> bool:
    """Repeat `work` while a store is unavailable; return False if `stop` was set before success."""
    held = metrics.ROLE_HELD.labels(name)
    failures, who = 0, object()
    try:
        while True:
            try:
                await work()
            except Exception as error:
                failure = store_failure(error)
                if failure is None:
                    raise
                OUTAGES.failed(failure)  # logged there, once for all roles
                OUTAGES.wait_for(failure.store, who)
                failures += 1
                if failures == 1:
                    log.debug("%s pauses: %s", name, failure)
                    metrics.ROLE_ERRORS.labels(name).inc()
                    held.set(1)
                await pause(stop, HOLD.wait_s(failures))
                if stop.is_set():
                    return False
            else:
                if failures:
                    log.debug("%s resumes", name)
                return True
    finally:
        held.set(0)
        OUTAGES.go_on(who)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for so many seconds, or until `stop` is set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
