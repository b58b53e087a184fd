"""Rate limits: local buckets of the buyer and the address, then the sale's bucket through leases.

A process leases tokens of a sale's bucket for some milliseconds and admits requests by them without
asking Redis. When few tokens are left, or little time, one request asks Redis, and brings the next
lease while other requests spend the rest. When none are left, requests ask together, in one call.
While buyers wait in line nothing is leased: then Redis knows whose turn it is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiohttp import web

from config.limits import Limits, LocalLimit, Op, Tier
from gateway.http.problems import Problem, Refused
from seckill import metrics
from seckill.errors import Unavailable
from seckill.micro_batcher import MicroBatcher, Waiter, answering_each
from seckill.sales.token_buckets import (
    LEASE_US,
    LINE_MAX,
    NAMES_MAX,
    LocalTokenBuckets,
    TokenBuckets,
    TokenLease,
)

LEASE_S = LEASE_US / 1_000_000
#: Share of the expected demand to lease: tokens not spent in time are lost to all processes.
LEASE_SHARE = 0.75
#: Part of a lease, and of its time, that is kept for the time in which the next one is brought.
LOW_SHARE = 0.25
LOW_S = LOW_SHARE * LEASE_S
#: Names that each kind of local bucket remembers: about 15 MB.
LOCAL_NAMES_MAX = 100_000
#: Longest wait of a deferred request; its client is still there for the answer.
DEFER_MAX_S = 2.0


class RateLimited(NamedTuple):
    """A request over a limit: when to come back, and the limit that refused it."""

    policy: str
    wait_s: float
    rate: int
    burst: int


class SaleRateLimiter:
    """The limit of one operation of one sale, in this process."""

    def __init__(
        self,
        sale_id: str,
        op: Op,
        tier: Tier,
        buckets: TokenBuckets,
        line_max: Callable[[], int] = lambda: LINE_MAX,
    ) -> None:
        self._sale_id, self._op, self._tier = sale_id, op, tier
        self._buckets = buckets
        self._line_max = line_max
        self._asks = MicroBatcher(answering_each(self._ask), max_batch=NAMES_MAX, max_calls=1)
        self._now = asyncio.get_running_loop().time
        self._leased, self._lease_ends = 0, 0.0
        #: With so many left, the next lease is asked for.
        self._low = 0
        self._next, self._next_ends = 0, 0.0
        self._fetching = False
        self._seen, self._seen_since, self._demand = 0, self._now(), 0.0
        self._outcomes = {
            outcome: metrics.RATE_LIMIT_DECISIONS.labels(op, outcome)
            for outcome in ("leased", "admitted", "refused", "shadow", "unheard")
        }

    def take(self) -> bool:
        """Take a leased token; False when there is none, or this request is to bring the next."""
        self._seen += 1
        now = self._now()
        if not self._has_lease(now):
            return False
        if self._runs_out(now) and not self._next and not self._fetching:
            self._fetching = True
            return False
        self._leased -= 1
        self._outcomes["leased"].inc()
        return True

    def put(self, waiter: Waiter[str, RateLimited | None]) -> None:
        """Do as `ask`, for a waiter that is no future."""
        self._asks.put(waiter)

    def ask(self, name: str) -> asyncio.Future[RateLimited | None]:
        """Ask the shared bucket; None when admitted, else how long until `name`'s turn."""
        return self._asks.submit(name)

    async def _ask(self, names: Sequence[str]) -> Sequence[RateLimited | None]:
        asked_at = self._now()
        if (elapsed := asked_at - self._seen_since) >= LEASE_S:
            self._demand = self._seen * LEASE_S / elapsed
            self._seen, self._seen_since = 0, asked_at
        # These requests came while the last call was under way. If that call brought a lease, none
        # is asked for now: it would replace the other, whose tokens would be lost.
        enough = self._has_lease(asked_at) and (self._next or not self._runs_out(asked_at))
        try:
            reply = await self._buckets.take(
                self._sale_id,
                self._op,
                self._tier,
                names,
                wanted=0 if enough else max(0, int(self._demand * LEASE_SHARE) - len(names)),
                line_max=min(self._line_max(), LINE_MAX),
            )
        except Unavailable:
            if self._tier.without_redis == "closed" and self._tier.mode != "shadow":
                raise
            self._outcomes["unheard"].inc(len(names))
            return [None] * len(names)
        finally:
            self._fetching = False
        if not enough:
            # Counted from before the call: the script took the tokens after that moment, so they
            # are spent within LEASE_US of it.
            self._next, self._next_ends = reply.leased, asked_at + LEASE_S
        return [self._refusal_of(reply, abs(wait_s)) for wait_s in reply.waits_s]

    def _refusal_of(self, reply: TokenLease, wait_s: float) -> RateLimited | None:
        if not wait_s:
            self._outcomes["admitted"].inc()
        elif self._tier.mode == "shadow":
            self._outcomes["shadow"].inc()
        else:
            self._outcomes["refused"].inc()
            return RateLimited(self._op, wait_s, reply.rate, reply.burst)
        return None

    def _runs_out(self, now: float) -> bool:
        """Tell whether it is time to bring the next lease."""
        return self._leased <= self._low or now >= self._lease_ends - LOW_S

    def _has_lease(self, now: float) -> bool:
        """Tell whether there is a token to spend; begin the next lease when this one is used up."""
        if not self._leased or now >= self._lease_ends:
            self._leased, self._lease_ends, self._next = self._next, self._next_ends, 0
            self._low = int(self._leased * LOW_SHARE)
        return self._leased > 0 and now < self._lease_ends


class RateLimiter:
    """All limits of this process."""

    def __init__(self, limits: Limits, buckets: TokenBuckets) -> None:
        self._limits = limits
        self._buckets = buckets
        self._by_sale: dict[tuple[str, Op], SaleRateLimiter] = {}
        self._buyers = LocalTokenBuckets(limits.buyer, names_max=LOCAL_NAMES_MAX)
        self._addresses = LocalTokenBuckets(limits.address, names_max=LOCAL_NAMES_MAX)
        self._now = asyncio.get_running_loop().time

    def local_refusal(self, buyer_id: str, address: str) -> RateLimited | None:
        """Take a token of both local buckets, or return why there is none."""
        now = self._now()
        if wait_s := self._buyers.take(buyer_id, now):
            return _local_refusal("buyer", wait_s, self._limits.buyer)
        if wait_s := self._addresses.take(address, now):
            return _local_refusal("address", wait_s, self._limits.address)
        return None

    def take(self, sale_id: str, op: Op, line_max: Callable[[], int] = lambda: LINE_MAX) -> bool:
        """Admit without asking the shared bucket: by a lease, or where there is no limit."""
        limiter = self._by_sale.get((sale_id, op))
        if limiter is None:
            tier = self._limits.tier(op)
            if tier.mode == "off":
                return True
            limiter = SaleRateLimiter(sale_id, op, tier, self._buckets, line_max)
            self._by_sale[sale_id, op] = limiter
        return limiter.take()

    def put(self, sale_id: str, op: Op, waiter: Waiter[str, RateLimited | None]) -> None:
        """Do as `ask`, for a waiter that is no future; a tier that defers is not waited for."""
        self._by_sale[sale_id, op].put(waiter)

    async def ask(self, sale_id: str, op: Op, name: str) -> RateLimited | None:
        """Ask the shared bucket after a `take` that failed; wait for it where the tier defers."""
        limiter, tier = self._by_sale[sale_id, op], self._limits.tier(op)
        waits_until = self._now() + (DEFER_MAX_S if tier.excess == "defer" else 0.0)
        while refusal := await limiter.ask(name):
            if self._now() + refusal.wait_s > waits_until:
                return refusal
            await asyncio.sleep(refusal.wait_s)
        return None

    async def refusal(self, sale_id: str, op: Op, name: str) -> RateLimited | None:
        """Take a token of the shared bucket, or return why there is none."""
        return None if self.take(sale_id, op) else await self.ask(sale_id, op, name)


def rate_limited(refusal: RateLimited) -> Refused:
    """Build the 429 for a refusal, with the fields of draft-ietf-httpapi-ratelimit-headers."""
    retry_after_s = max(1, math.ceil(refusal.wait_s))
    window_s = max(1, math.ceil(refusal.burst / refusal.rate))
    metrics.REFUSED_BY_LIMIT.inc()
    headers = {
        "Retry-After": str(retry_after_s),
        "RateLimit-Policy": f'"{refusal.policy}";q={refusal.burst};w={window_s}',
        "RateLimit": f'"{refusal.policy}";r=0;t={retry_after_s}',
    }
    return Refused(Problem.RATE_LIMITED, headers=headers)


def _local_refusal(policy: str, wait_s: float, limit: LocalLimit) -> RateLimited:
    metrics.RATE_LIMIT_DECISIONS.labels(policy, "refused").inc()
    return RateLimited(policy, wait_s, limit.rate, limit.burst)


LIMITER = web.AppKey("limiter", RateLimiter)
