"""One token bucket in a real Redis, and its clock.

Time is that of Redis. Tests let it pass by making what the bucket remembers older.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from redis.asyncio import Redis

from config.limits import Tier
from seckill.adapters import redis_keys
from seckill.inventory.reservations import CALL_MAX
from seckill.sales.token_buckets import GRACE_US, LEASE_US, LINE_MAX, TokenBuckets, TokenLease

GRACE_S, LEASE_S = GRACE_US / 1e6, LEASE_US / 1e6
SALE = "spring"
#: A token a second: time that a test does not let pass makes no difference.
TIER = Tier(rate=1, burst=20)

_numbers = itertools.count(1)


@dataclass
class Bucket:
    """One bucket in Redis, and its clock."""

    redis: Redis
    tier: Tier = TIER
    passed_s: float = 0.0
    buckets: TokenBuckets = field(init=False)

    def __post_init__(self) -> None:
        self.buckets = TokenBuckets(self.redis)

    async def now_s(self) -> float:
        seconds, microseconds = await self.redis.time()
        return seconds + microseconds / 1e6 + self.passed_s

    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass: all that the bucket remembers becomes so much older."""
        self.passed_s += seconds
        microseconds = int(seconds * 1e6)
        if await self.redis.hexists(redis_keys.bucket(SALE, "try"), "at"):
            await self.redis.hincrby(redis_keys.bucket(SALE, "try"), "at", -microseconds)
        line = redis_keys.line(SALE, "try")
        turns = await self.redis.zrange(line, 0, -1, withscores=True)
        if turns:
            await self.redis.zadd(line, {name: turn - microseconds for name, turn in turns})

    async def ask(self, *names: str, wanted: int = 0, line_max: int = LINE_MAX) -> TokenLease:
        return await self.buckets.take(
            SALE, "try", self.tier, names, wanted=wanted, line_max=line_max
        )

    async def granted(self, count: int) -> int:
        """Ask under so many new names; return how many get a token."""
        total = 0
        for first in range(0, count, CALL_MAX):
            size = min(CALL_MAX, count - first)
            reply = await self.ask(*(f"stranger-{next(_numbers)}" for _ in range(size)))
            total += list(reply.waits_s).count(0)
        return total
