"""How far the clocks of the stores are from ours: sales open by theirs, and pages count by ours."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.inventory.reservations import Stock

#: Further apart, a countdown and the opening differ by what a buyer notices.
APART_S = 1.0


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far a store's clock is ahead of ours, at least."""

    store: str
    ahead_s: float

    @property
    def line(self) -> str:
        """What to tell an operator."""
        way = "ahead of" if self.ahead_s > 0 else "behind"
        return (
            f"the clock of {self.store} is {abs(self.ahead_s):.1f} s {way} this host's; let both "
            "keep time (chrony, systemd-timesyncd)"
        )


async def offsets(redis: Redis, db: asyncpg.Pool) -> list[ClockOffset]:
    """Return how far the clocks of Redis and PostgreSQL are from ours."""

    async def of_postgresql() -> float:
        with database_errors_as_unavailable():
            return float(await db.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))

    async def of_redis() -> float:
        return await Stock(redis).now_ms() / 1000

    return [
        ClockOffset(store, await _offset(read))
        for store, read in (("Redis", of_redis), ("PostgreSQL", of_postgresql))
    ]


def apart(found: list[ClockOffset]) -> list[ClockOffset]:
    """Return those that are too far from ours."""
    return [each for each in found if abs(each.ahead_s) > APART_S]


async def _offset(read: Callable[[], Awaitable[float]]) -> float:
    """Return the least offset that the reading proves: it happened between its call and its end."""
    before = time.time()
    there = await read()
    return max(there - time.time(), 0.0) + min(there - before, 0.0)
