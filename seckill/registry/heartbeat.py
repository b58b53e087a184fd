"""The reports of one process: one small command to Redis every two seconds.

A Redis that fails, hangs or is full harms no process by this: a report that fails is dropped, and
the look at Redis (`seckill.health`) says what is wrong with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from redis.asyncio import Redis

from config.settings import Settings
from seckill.adapters.failures import store_failure
from seckill.registry import processes
from seckill.registry.processes import ProcessState, Reason
from seckill.tasks import end_tasks

#: Between two reports. Each costs a process some 0.1 ms and Redis one write.
EVERY_S = 2.0
#: Of so many reports one renews the expiry of the hash, and forgets processes that were killed.
KEEP_EACH = 15
#: For the last command, with which a process that stops removes its entry.
LEAVE_S = 0.5

PAGE_BYTES = resource.getpagesize()

log = logging.getLogger(__name__)


class WatchedStores(Protocol):
    """What a health watch knows; `seckill.health.watch` has it."""

    def reasons(self) -> dict[str, str]:
        """Return why stores are not well."""

    def well_at(self, name: str) -> float:
        """Return when a store was seen well last, by the monotonic clock."""


class Self:
    """What a process knows of itself, whatever its kind."""

    def __init__(self, kind: str, settings: Settings) -> None:
        host = socket.gethostname()
        self.known = ProcessState(
            # Random, because a pid is used again, and containers have the same few.
            process_id=f"{kind}-{secrets.token_hex(6)}",
            kind=kind,
            host=host,
            pid=os.getpid(),
            version=installed_version(),
            started_at=time.time(),
            at=0.0,
            admin_url=_admin_url(settings),
            home=str(settings.home.absolute()),
            restarts=settings.restarts,
        )

    def now(self) -> ProcessState:
        """Return the state with the time, the CPU and the memory of this moment."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        state = self.known
        state.at = time.time()
        state.cpu_s = round(used.ru_utime + used.ru_stime, 2)
        state.memory_bytes = _memory_bytes(used)
        return state


def reasons_of(watch: WatchedStores, reasons: Mapping[str, str]) -> dict[str, Reason]:
    """Return reasons with how long each store has not been seen well; 0 if it never was."""
    now = time.monotonic()
    return {
        name: Reason(words, max(0.0, round(now - watch.well_at(name), 1)))
        if watch.well_at(name) > float("-inf")
        else Reason(words, 0.0)
        for name, words in reasons.items()
    }


@asynccontextmanager
async def reporting(redis: Redis, state: Callable[[], ProcessState]) -> AsyncIterator[None]:
    """Report inside the block; remove the entry at its end, if Redis does that at once."""
    task = asyncio.create_task(_report_on(redis, state), name="heartbeat")
    try:
        yield
    finally:
        await end_tasks(task)
        with suppress(Exception):  # the entry is forgotten anyway, a minute later
            async with asyncio.timeout(LEAVE_S):
                await processes.forget(redis, [state().process_id])


async def _report_on(redis: Redis, state: Callable[[], ProcessState]) -> None:
    number, has_bug = 0, False
    while True:
        keep = number % KEEP_EACH == 0
        try:
            await processes.report(redis, state(), keep=keep)
            if keep:
                await processes.forget_silent(redis)
            number += 1
        except Exception as error:
            # Redis comes back or not; the work does not depend on this.
            if store_failure(error) is None and not has_bug:
                log.exception("a report of this process has failed")
                has_bug = True
        await asyncio.sleep(EVERY_S)


@cache
def installed_version() -> str:
    """Return the version of this package."""
    try:
        return version("seckill-gateway")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


def _admin_url(settings: Settings) -> str:
    host = settings.admin_host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.admin_port}"


def _memory_bytes(used: resource.struct_rusage) -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):  # no Linux: the most that it ever had
        return used.ru_maxrss * 1024
