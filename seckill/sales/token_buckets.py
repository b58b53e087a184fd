"""Token buckets: one in Redis for each operation of a sale, and small ones in each process.

All gateways share the bucket in Redis: over any t seconds they let at most rate * t + burst
requests pass together (`lua/take_tokens.lua`). A refused name gets a turn, which is a place in a
line. When the turn comes, a token is kept for the name for GRACE_US. So a client that obeys
Retry-After gets in, whichever process it reaches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from redis.asyncio import Redis

import lua
from config.limits import LocalLimit, Op, Tier
from seckill.adapters import redis_keys
from seckill.adapters.redis import redis_errors_as_unavailable, run_script

#: How long leased tokens are good. A process asks Redis at most once in this time while there is no
#: line, and a process that is killed loses at most the tokens of this time.
LEASE_US = 100_000
#: How long a token is kept after a turn. Retry-After is in whole seconds, so an obedient client
#: comes up to one second late; the rest is for its way through the network.
GRACE_US = 1_500_000
#: Turns in one line, about 100 bytes each in Redis.
LINE_MAX = 1_000_000
#: Names in one call, during which Redis does nothing else: as many as grabs in one call.
NAMES_MAX = 512
#: Rounding errors of sums of intervals are smaller.
ROUNDING_S = 1e-9

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class TokenLease:
    """The bucket's reply: tokens leased, the limit that applies, and the wait of each name.

    A wait is in seconds: 0 lets the name pass, else it is the time until its turn; negative if the
    line is full.
    """

    leased: int
    rate: int
    burst: int
    waits_s: Sequence[float]


class TokenBuckets:
    """The shared buckets, bound to one Redis client."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._take_tokens = lua.register(redis, "take_tokens")
        self._set_limit = lua.register(redis, "set_limit")

    async def take(
        self,
        sale_id: str,
        op: Op,
        tier: Tier,
        names: Sequence[str],
        *,
        wanted: int = 0,
        line_max: int = LINE_MAX,
    ) -> TokenLease:
        """Take a token for each of at most NAMES_MAX names, and lease up to `wanted` more."""
        keys = partial(redis_keys.bucket, op=op), partial(redis_keys.line, op=op)
        args = [_pack(names), wanted, tier.rate, tier.burst, LEASE_US, GRACE_US, line_max]
        reply = await run_script(self._take_tokens, sale_id, keys, args)
        _, leased, rate, burst, *waits_us = reply
        return TokenLease(leased, rate, burst, [wait / 1_000_000 for wait in waits_us])

    async def set_limit(self, sale_id: str, op: Op, *, rate: int, burst: int) -> None:
        """Give a bucket its own limit; every process applies it from its next call."""
        key = partial(redis_keys.bucket, op=op)
        await run_script(self._set_limit, sale_id, [key], [rate, burst])

    async def unset_limit(self, sale_id: str, op: Op) -> None:
        """Take a bucket's own limit away; the next call caps its level at the configured burst."""
        with redis_errors_as_unavailable():
            await self._redis.hdel(redis_keys.bucket(sale_id, op), "rate", "burst")


class LocalTokenBuckets:
    """A token bucket for each name, in this process alone, for the names that came last.

    A forgotten name has a full bucket again. So a flood of names costs fairness among them, never
    memory.
    """

    def __init__(self, limit: LocalLimit, *, names_max: int) -> None:
        self._interval_s = 1 / limit.rate if limit.rate else 0.0
        self._tolerance_s = self._interval_s * limit.burst
        self._names_max = names_max
        #: When each name's bucket will be full again (GCRA's theoretical arrival time). A plain
        #: dict would search for its first name behind all removed ones.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, name: str, now_s: float) -> float:
        """Take a token and return 0, or take none and return the seconds until there is one."""
        if not self._interval_s:
            return 0.0
        full_at = max(self._full_at.pop(name, now_s), now_s)
        wait_s = full_at + self._interval_s - now_s - self._tolerance_s
        if wait_s < ROUNDING_S:
            wait_s = 0.0
            full_at += self._interval_s
        self._full_at[name] = full_at  # now the last
        if len(self._full_at) > self._names_max:
            self._full_at.popitem(last=False)
        return wait_s

    def __len__(self) -> int:
        return len(self._full_at)
