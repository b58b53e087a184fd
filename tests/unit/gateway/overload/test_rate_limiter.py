"""The limiter of one process: leases are spent without asking, and never past their time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from config.limits import Limits, LocalLimit, Tier
from gateway.overload.rate_limiter import (
    DEFER_MAX_S,
    LEASE_S,
    LEASE_SHARE,
    LOW_S,
    RateLimited,
    RateLimiter,
    SaleRateLimiter,
)
from seckill import metrics
from seckill.errors import Unavailable
from seckill.sales.token_buckets import LINE_MAX, TokenBuckets, TokenLease

TIER = Tier(rate=100, burst=201)
FREE = Tier(rate=1, mode="off")


@dataclass
class Shared:
    """Stands in for the bucket in Redis: answers as a test says, and notes what it was asked."""

    #: Tokens to lease, if wanted or not, and the wait of every name.
    leases: int = 0
    wait_s: float = 0.0
    unavailable: bool = False
    meanwhile: Callable[[], None] = lambda: None
    asked: list[list[str]] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    line_max: int = 0

    async def take(
        self, sale_id: str, op: str, tier: Tier, names: Sequence[str], *, wanted: int, line_max: int
    ) -> TokenLease:
        self.asked.append(list(names))
        self.wanted.append(wanted)
        self.line_max = line_max
        self.meanwhile()
        if self.unavailable:
            raise Unavailable("Redis does not answer")
        return TokenLease(self.leases, tier.rate, tier.burst, [self.wait_s] * len(names))


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
async def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the loop's clock; the test moves it on."""
    now = 0.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    return advance


def make_limiter(shared: Shared, tier: Tier = TIER, **local: LocalLimit) -> RateLimiter:
    limits = Limits(try_=tier, confirm=FREE, cancel=FREE, **local)
    return RateLimiter(limits, cast(TokenBuckets, shared))


def make_sale_limiter(shared: Shared) -> SaleRateLimiter:
    return SaleRateLimiter("spring", "try", TIER, cast(TokenBuckets, shared))


async def settle() -> None:
    """Give the loop the turns that an ask needs."""
    for _ in range(10):
        await asyncio.sleep(0)


def counted(outcome: str) -> float:
    return metrics.RATE_LIMIT_DECISIONS.labels("try", outcome).value


# Leases.


async def test_leased_tokens_are_spent_without_asking(shared, advance):
    limiter, leased = make_limiter(shared), counted("leased")
    shared.leases = 3
    assert [await limiter.refusal("spring", "try", f"b{n}") for n in range(4)] == [None] * 4
    assert shared.asked == [["b0"]], "b1, b2 and b3 are admitted from the lease"
    assert counted("leased") == leased + 3
    await limiter.refusal("spring", "try", "b4")
    assert shared.asked == [["b0"], ["b4"]]


async def test_one_request_brings_the_next_lease_while_the_others_spend_the_rest(shared, advance):
    limiter = make_sale_limiter(shared)
    shared.leases = 100
    await limiter.ask("b0")
    assert sum(limiter.take() for _ in range(101)) == 100, "one is to ask, with 25 left"
    asking = limiter.ask("b76")
    await asyncio.sleep(0)
    assert not limiter.take(), "all are spent, and the next are on their way"
    assert await asking is None
    assert shared.asked == [["b0"], ["b76"]]
    assert sum(limiter.take() for _ in range(80)) == 79


async def test_the_next_lease_is_counted_from_its_own_ask(shared, advance):
    limiter = make_sale_limiter(shared)
    shared.leases = 4
    await limiter.ask("b0")
    advance(LEASE_S / 2)
    assert [limiter.take() for _ in range(4)] == [True] * 3 + [False]
    await limiter.ask("b4")
    advance(LEASE_S / 2)
    assert limiter.take(), "of the second: the last of the first is lost"
    advance(LEASE_S / 2)
    assert not limiter.take()


async def test_a_lease_ends_its_time_after_the_ask_began(shared, advance):
    """The script may have taken the tokens in the moment in which it was asked."""
    limiter = make_sale_limiter(shared)
    shared.leases, shared.meanwhile = 10, lambda: advance(LEASE_S / 2)
    await limiter.ask("ann")
    advance(LEASE_S / 2 - 0.001)
    assert [limiter.take() for _ in range(3)] == [False, True, True], "one is to ask"
    advance(0.001)
    assert not limiter.take(), "eight were left, and are lost"


async def test_the_next_lease_is_brought_before_the_time_of_the_last_is_over(shared, advance):
    limiter = make_sale_limiter(shared)
    shared.leases = 100
    await limiter.ask("ann")
    advance(LEASE_S - LOW_S - 0.001)
    assert limiter.take()
    advance(0.001)
    assert [limiter.take() for _ in range(3)] == [False, True, True], "one is to ask"
    await limiter.ask("bob")
    advance(LOW_S)
    assert limiter.take(), "of the second"


async def test_a_lease_that_is_good_is_kept_and_no_second_one_asked_for(shared, advance):
    """Otherwise a crowd would lose a lease with each call, and be refused below the limit."""
    limiter = make_sale_limiter(shared)
    for _ in range(400):
        limiter.take()
    advance(LEASE_S)
    shared.leases = 2
    await limiter.ask("ann")
    shared.leases = 0
    await limiter.ask("bob")
    assert shared.wanted == [int(400 * LEASE_SHARE) - 1, 0]
    assert [limiter.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("requests", "leases_long", "demand"),
    [
        (400, 1, 400),
        (400, 4, 100),
        (1, 1000, 0),  # no request comes: nothing is taken from the others
        (400, 0.5, 0),  # too short a time to know
    ],
)
async def test_the_lease_asked_for_follows_the_demand(
    shared, advance, requests, leases_long, demand
):
    limiter = make_sale_limiter(shared)
    for _ in range(requests):
        limiter.take()
    advance(LEASE_S * leases_long)
    await limiter.ask("ann")
    advance(LEASE_S / 4)
    await limiter.ask("ann")  # it holds until there is a new one
    assert shared.wanted == [max(0, int(demand * LEASE_SHARE) - 1)] * 2


async def test_nothing_is_asked_while_no_request_comes(shared, advance):
    make_sale_limiter(shared)
    advance(3600)
    await settle()
    assert shared.asked == []


async def test_requests_that_come_during_an_ask_ask_together(shared, advance):
    limiter = make_sale_limiter(shared)
    asks = [asyncio.ensure_future(limiter.ask("b0"))]
    shared.meanwhile = lambda: asks.extend(
        asyncio.ensure_future(limiter.ask(f"b{n}")) for n in (1, 2) if len(asks) < 3
    )
    await settle()
    assert [await ask for ask in asks] == [None, None, None]
    assert shared.asked == [["b0"], ["b1", "b2"]]


# Refusals.


@pytest.mark.parametrize("wait_s", [0.3, -0.3], ids=["a turn", "the line is full"])
async def test_a_refusal_names_its_limit_and_the_wait(shared, advance, wait_s):
    limiter, refused = make_limiter(shared), counted("refused")
    shared.wait_s = wait_s
    assert not limiter.take("spring", "try", lambda: 7)
    refusal = await limiter.ask("spring", "try", "ann")
    assert refusal == RateLimited("try", 0.3, TIER.rate, TIER.burst)
    assert counted("refused") == refused + 1
    assert shared.line_max == 7, "no longer a line than there are units"


async def test_without_redis_an_open_tier_admits_and_a_closed_one_does_not_know(shared, advance):
    shared.unavailable, unheard = True, counted("unheard")
    limiter = make_limiter(shared, Tier(rate=100, burst=201, without_redis="open"))
    assert await limiter.refusal("spring", "try", "ann") is None
    assert counted("unheard") == unheard + 1
    with pytest.raises(Unavailable):
        await make_limiter(shared).refusal("spring", "try", "ann")


async def test_shadow_counts_what_it_would_refuse_and_admits(shared, advance):
    shadow, refused = counted("shadow"), counted("refused")
    shared.wait_s = 0.3
    limiter = make_limiter(shared, Tier(rate=100, burst=201, mode="shadow"))
    assert await limiter.refusal("spring", "try", "ann") is None
    assert (counted("shadow"), counted("refused")) == (shadow + 1, refused)


async def test_shadow_admits_without_redis_too(shared, advance):
    shared.unavailable, unheard = True, counted("unheard")
    limiter = make_limiter(shared, Tier(rate=1, mode="shadow", without_redis="closed"))
    assert await limiter.refusal("spring", "try", "ann") is None
    assert counted("unheard") == unheard + 1


async def test_a_limit_that_is_off_asks_no_store(shared, advance):
    shared.unavailable = True
    limiter = make_limiter(shared, Tier(rate=1, mode="off"))
    assert await limiter.refusal("spring", "try", "ann") is None
    assert shared.asked == []


# Deferring.

DEFERRING = Tier(rate=100, burst=201, excess="defer")


def make_deferring(shared: Shared) -> RateLimiter:
    return RateLimiter(
        Limits(try_=TIER, confirm=FREE, cancel=DEFERRING), cast(TokenBuckets, shared)
    )


async def test_a_deferred_request_waits_for_its_turn_and_asks_again(shared, advance):
    shared.wait_s = 0.5
    asking = asyncio.create_task(make_deferring(shared).refusal("spring", "cancel", "ann"))
    await settle()
    advance(0.499)
    await settle()
    assert shared.asked == [["ann"]], "not before its turn"
    shared.wait_s = 0.0
    advance(0.002)
    assert await asking is None
    assert shared.asked == [["ann"], ["ann"]]


async def test_a_turn_beyond_the_longest_wait_is_refused_at_once(shared, advance):
    shared.wait_s = DEFER_MAX_S + 0.1
    refusal = await make_deferring(shared).refusal("spring", "cancel", "ann")
    assert refusal == RateLimited("cancel", DEFER_MAX_S + 0.1, DEFERRING.rate, DEFERRING.burst)


async def test_a_request_is_deferred_for_the_longest_wait_at_most_in_all(shared, advance):
    shared.wait_s = DEFER_MAX_S / 2 + 0.1
    asking = asyncio.create_task(make_deferring(shared).refusal("spring", "cancel", "ann"))
    await settle()
    advance(DEFER_MAX_S / 2 + 0.2)
    refusal = await asking
    assert refusal is not None
    assert refusal.policy == "cancel"
    assert len(shared.asked) == 2


# The buckets of this process.


async def test_a_local_refusal_names_the_bucket_that_is_empty(shared, advance):
    limiter = make_limiter(
        shared, buyer=LocalLimit(rate=10, burst=1), address=LocalLimit(rate=2, burst=2)
    )
    assert limiter.local_refusal("ann", "::1") is None
    assert limiter.local_refusal("ann", "::1") == RateLimited("buyer", pytest.approx(0.1), 10, 1)
    assert limiter.local_refusal("bob", "::1") is None
    assert limiter.local_refusal("cat", "::1") == RateLimited("address", pytest.approx(0.5), 2, 2)
    advance(0.5)
    assert limiter.local_refusal("cat", "::1") is None
    assert shared.asked == []


async def test_no_line_is_longer_than_redis_can_spare_however_much_is_for_sale(
    shared: Shared,
) -> None:
    for units, line_max in ((2**31, LINE_MAX), (3, 3)):
        limiter = SaleRateLimiter(
            "spring", "try", TIER, cast(TokenBuckets, shared), lambda n=units: n
        )
        await limiter.ask("ann")
        assert shared.line_max == line_max
