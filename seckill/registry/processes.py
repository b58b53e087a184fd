"""The registry: what each process of the installation reports, in one hash of Redis."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec
from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable

#: A process that has not reported for so long is shown as silent: it missed four reports.
SILENT_S = 10.0
#: A process that has not reported for so long is forgotten.
FORGOTTEN_S = 60.0
#: The whole hash goes, if no process is left that could forget the others.
TTL_S = 120.0
#: Entries of one step of a scan: all of them in an installation of the usual size.
SCAN = 500


class RoleFigures(msgspec.Struct, omit_defaults=True):
    """A role as a pool manager sees it."""

    role: str
    wanted: int
    running: int
    paused: bool = False
    min: int | None = None
    max: int | None = None
    in_flight: int = 0
    rate_per_s: float = 0.0
    errors: int = 0
    restarts: int = 0
    held: bool = False


class Reason(msgspec.Struct):
    """Why a store does not do the work, in its own words, and for how long."""

    words: str
    for_s: float


class ProcessState(msgspec.Struct, omit_defaults=True):
    """What a process reports about itself."""

    process_id: str
    #: gateway, consumers or pool.
    kind: str
    host: str
    pid: int
    version: str
    #: Unix seconds, by the clock of its host.
    started_at: float
    at: float
    admin_url: str = ""
    #: Whose directory it works in; a pool manager is reached there.
    home: str = ""
    #: CPU seconds since it started, and its resident memory.
    cpu_s: float = 0.0
    memory_bytes: int = 0
    #: How often its supervisor had to start it again.
    restarts: int = 0
    roles: list[str] = []
    paused: list[str] = []
    #: Store -> why it does not do the work.
    reasons: dict[str, Reason] = {}
    #: Counts since it started, from which rates follow; "wait:0.005-0.01" is a bucket of waits.
    counts: dict[str, float] = {}
    #: Of a pool manager: its roles.
    pool: list[RoleFigures] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ProcessState).decode


async def report(redis: Redis, state: ProcessState, *, keep: bool) -> None:
    """Write a process's state; `keep` also renews the time after which the hash expires."""
    key, entry = redis_keys.processes(), _encode(state)
    if not keep:
        with redis_errors_as_unavailable():
            await redis.hset(key, state.process_id, entry)
        return
    async with open_pipeline(redis) as pipe:
        pipe.hset(key, state.process_id, entry)
        pipe.pexpire(key, int(TTL_S * 1000))
        await pipe.execute()


async def forget(redis: Redis, process_ids: Iterable[str]) -> None:
    """Remove processes that have ended."""
    if gone := list(process_ids):
        with redis_errors_as_unavailable():
            await redis.hdel(redis_keys.processes(), *gone)


async def read(redis: Redis) -> list[ProcessState]:
    """Return what all processes reported last; entries of another version are left out."""
    found = []
    with redis_errors_as_unavailable():
        async for _, entry in redis.hscan_iter(redis_keys.processes(), count=SCAN):
            try:
                found.append(_decode(entry))
            except msgspec.MsgspecError:
                continue  # of a version to come, or damaged: it cannot be shown
    return found


async def forget_silent(redis: Redis) -> None:
    """Remove processes that were killed: they could not do it themselves.

    A process whose clock is wrong may be among them. It is back with its next report.
    """
    now = time.time()
    silent = [each.process_id for each in await read(redis) if now - each.at > FORGOTTEN_S]
    await forget(redis, silent)
