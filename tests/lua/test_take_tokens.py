"""The shared token bucket: never above its bound, and a turn that is obeyed is admitted.

Time is Redis's own. Tests let it pass by moving what the bucket remembers into the past.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from config.limits import Tier
from seckill.adapters import redis_keys
from seckill.inventory.reservations import CALL_MAX
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.token_buckets import GRACE_US, LEASE_US, LINE_MAX, TokenBuckets, TokenLease
from tests.lua.shop import Shop

SALE = "spring"
GRACE_S, LEASE_S = GRACE_US / 1e6, LEASE_US / 1e6
#: A token a second: calls that follow each other see no other time than what a test lets pass.
TIER = Tier(rate=1, burst=20)


@dataclass
class Bucket:
    """One bucket in Redis and its clock."""

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
        """Let so much time pass: whatever the bucket remembers is that much older."""
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

    async def admitted(self, count: int) -> int:
        """Ask for so many strangers, and count the admitted."""
        total = 0
        for first in range(0, count, CALL_MAX):
            size = min(CALL_MAX, count - first)
            reply = await self.ask(*(f"stranger-{next(_numbers)}" for _ in range(size)))
            total += list(reply.waits_s).count(0)
        return total


_numbers = itertools.count(1)


@pytest.fixture
def bucket(redis: Redis) -> Bucket:
    return Bucket(redis)


async def test_a_full_bucket_admits_its_burst(bucket: Bucket) -> None:
    assert await bucket.admitted(100) == 20
    assert await bucket.admitted(100) == 0


async def test_where_tokens_are_leased_a_lease_of_the_burst_is_kept_back(redis: Redis) -> None:
    """A leased token may be spent LEASE_S late; over any interval the bound must hold."""
    assert await Bucket(redis, Tier(rate=100, burst=200)).admitted(300) == 190


@pytest.mark.parametrize(("rate", "burst"), [(1, 1), (1000, 1), (1000, 99)])
async def test_a_burst_that_is_hardly_a_lease_is_not_leased(
    redis: Redis, rate: int, burst: int
) -> None:
    bucket = Bucket(redis, Tier(rate=rate, burst=burst))
    assert (await bucket.ask("a", wanted=50)).leased == 0
    await bucket.pass_time(10)
    assert await bucket.admitted(burst) == burst


async def test_tokens_come_back_at_the_rate_and_never_above_the_burst(bucket: Bucket) -> None:
    await bucket.admitted(20)
    await bucket.pass_time(5)
    assert (await bucket.ask(*"abcde")).waits_s == [0] * 5
    await bucket.pass_time(3600)
    assert await bucket.admitted(100) == 20


async def test_the_refused_get_turns_one_token_apart(bucket: Bucket) -> None:
    await bucket.admitted(20)
    waits = (await bucket.ask("a", "b", "c")).waits_s
    assert waits[0] == pytest.approx(1, abs=0.5)
    assert [b - a for a, b in itertools.pairwise(waits)] == [pytest.approx(1)] * 2


async def test_F36_a_turn_is_kept_however_often_its_owner_asks(bucket: Bucket) -> None:
    """Asking more often, or at another process, gains nothing and loses nothing."""
    await bucket.admitted(20)
    await bucket.ask("a", "b", "c")
    again = (await bucket.ask("c", "c", "a")).waits_s
    assert again[0] == again[1] == pytest.approx(3, abs=0.5)
    assert again[2] == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("late_s", [0.0, 0.5, GRACE_S - 0.5])
async def test_who_comes_at_his_turn_is_admitted_whatever_strangers_do(
    bucket: Bucket, late_s: float
) -> None:
    await bucket.admitted(20)
    (wait,) = (await bucket.ask("patient")).waits_s
    await bucket.admitted(500)
    await bucket.pass_time(wait + 0.001)
    await bucket.admitted(500)
    await bucket.pass_time(late_s)
    await bucket.admitted(500)
    assert (await bucket.ask("patient")).waits_s == [0]
    assert (await bucket.ask("patient")).waits_s != [0], "a turn is good once"


async def test_F19_an_unused_turn_is_given_to_others_after_the_grace(bucket: Bucket) -> None:
    """F19: seats that were abandoned must not block the line."""
    await bucket.admitted(31)  # the last of them wait, and never come
    assert await bucket.redis.zcard(redis_keys.line(SALE, "try")) == 11
    await bucket.pass_time(20 + GRACE_S)
    assert await bucket.admitted(100) == 20


async def test_a_refusal_burns_no_token(bucket: Bucket) -> None:
    await bucket.admitted(20)
    for _ in range(50):
        await bucket.ask("eager", "keen")
    await bucket.pass_time(20)
    waits = (await bucket.ask("eager", "keen", *(f"s{n}" for n in range(30)))).waits_s
    assert waits[:2] == [0, 0]
    assert waits.count(0) == 20


async def test_a_full_line_refuses_without_a_turn(bucket: Bucket) -> None:
    await bucket.admitted(20)
    waits = (await bucket.ask("a", "b", "c", line_max=2)).waits_s
    assert [wait > 0 for wait in waits] == [True, True, False]
    assert waits[2] == pytest.approx(-3, abs=0.5)
    assert await bucket.redis.zcard(redis_keys.line(SALE, "try")) == 2


async def test_a_burst_too_small_to_keep_tokens_makes_no_promises(redis: Redis) -> None:
    bucket = Bucket(redis, Tier(rate=4, burst=5))
    assert await bucket.admitted(20) == 5
    assert not await redis.exists(redis_keys.line(SALE, "try"))
    await bucket.pass_time(0.75)
    assert await bucket.admitted(20) == 3


@given(rate=st.integers(1, 500), burst=st.integers(1, 1500))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_an_operator_is_told_the_truth_about_turns(
    make_shop: Callable[[], Awaitable[Shop]], rate: int, burst: int
) -> None:
    bucket = Bucket((await make_shop()).redis, Tier(rate=rate, burst=burst))
    waits: list[float] = []
    while not any(waits):
        waits = list((await bucket.ask(*(f"{len(waits)}-{n}" for n in range(500)))).waits_s)
    assert SaleLimit(rate, burst).keeps_turns == (next(filter(None, waits)) > 0)


async def test_a_lease_takes_what_is_left_and_at_most_its_time_of_the_rate(redis: Redis) -> None:
    bucket = Bucket(redis, Tier(rate=1000, burst=2000))
    reply = await bucket.ask("a", wanted=1_000_000)
    assert (reply.waits_s, reply.leased) == ([0], 100)
    assert await bucket.admitted(3000) >= 1799


async def test_a_killed_process_strands_one_lease_for_as_long_as_it_is_good(redis: Redis) -> None:
    bucket = Bucket(redis, Tier(rate=1000, burst=2000))
    depth, lease = 1900, 100
    doomed = await bucket.ask("doomed", wanted=1_000_000)
    assert doomed.leased == lease
    rest = depth - 1 - lease
    assert await bucket.admitted(rest) == rest, "the others have all that it did not take"
    await bucket.pass_time(LEASE_S)
    assert await bucket.admitted(lease) == lease, "and then as much as it took along"


async def test_nothing_is_leased_while_somebody_waits(bucket: Bucket) -> None:
    await bucket.admitted(21)
    await bucket.pass_time(1.0)
    assert (await bucket.ask("a", wanted=10)).leased == 0


async def test_the_line_expires_with_its_last_turn(bucket: Bucket) -> None:
    await bucket.admitted(40)
    ttl_ms = await bucket.redis.pttl(redis_keys.line(SALE, "try"))
    assert 20_000 < ttl_ms <= 20_000 + GRACE_S * 1000 + 10


async def test_an_operators_limit_holds_from_the_next_call_on(bucket: Bucket) -> None:
    await bucket.admitted(20)
    await bucket.buckets.set_limit(SALE, "try", rate=100, burst=300)
    assert await bucket.admitted(300) < 100, "the change makes no tokens"
    await bucket.pass_time(10)
    reply = await bucket.ask("a")
    assert (reply.rate, reply.burst) == (100, 300)
    assert await bucket.admitted(500) in range(289, 389)
    await bucket.buckets.set_limit(SALE, "try", rate=1, burst=10)
    await bucket.pass_time(3600)
    assert await bucket.admitted(100) == 10


async def test_a_burst_too_small_for_turns_does_not_wait_for_an_old_line(bucket: Bucket) -> None:
    """Those of the line may never come: then nobody would be admitted while their turns last."""
    await bucket.admitted(1000)
    await bucket.buckets.set_limit(SALE, "try", rate=10, burst=1)
    admitted = 0
    for _ in range(10):
        await bucket.pass_time(0.2)
        admitted += await bucket.admitted(5)
    assert admitted == 10


async def test_setting_the_same_limit_again_breaks_no_turn(redis: Redis) -> None:
    """The operator's change must not cost those their tokens who were told to come now."""
    bucket = Bucket(redis, Tier(rate=10, burst=21))
    waits = (await bucket.ask(*(f"n{n}" for n in range(30)))).waits_s
    patient = [f"n{n}" for n, wait in enumerate(waits) if wait > 0]
    assert len(patient) == 10
    await bucket.pass_time(1.01)
    await bucket.buckets.set_limit(SALE, "try", rate=10, burst=21)
    assert (await bucket.ask(*patient)).waits_s == [0] * 10


async def test_a_clock_that_steps_back_makes_no_tokens(bucket: Bucket) -> None:
    await bucket.admitted(100)
    await bucket.redis.hincrby(redis_keys.bucket(SALE, "try"), "at", 3_600_000_000)
    assert await bucket.admitted(100) == 0


# Four processes, and whatever they do.


@dataclass(order=True)
class Visit:
    at_s: float
    names: list[str] = field(compare=False)
    process: int = field(compare=False)
    promised: bool = field(compare=False, default=False)


crowds = st.lists(
    st.tuples(
        st.floats(0, 6),  # when
        st.integers(1, 60),  # how many at once
        st.integers(0, 3),  # at which process
    ),
    min_size=1,
    max_size=25,
)


@given(
    crowds=crowds,
    rate=st.sampled_from([2, 10, 37, 200]),
    manners=st.lists(st.tuples(st.booleans(), st.floats(0, 0.3)), min_size=1, max_size=20),
    wanted=st.integers(0, 30),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_note_08_four_processes_keep_the_bound_and_every_promise(
    make_shop: Callable[[], Awaitable[Shop]],
    crowds: list[tuple[float, int, int]],
    rate: int,
    manners: list[tuple[bool, float]],
    wanted: int,
) -> None:
    """Over any t seconds at most rate * t + burst; who obeys Retry-After is admitted, anywhere."""
    bucket = Bucket((await make_shop()).redis, Tier(rate=rate, burst=2 * rate + 1))
    names = (f"n{n}" for n in itertools.count())
    start_s = await bucket.now_s()
    visits = [
        Visit(start_s + at_s, [next(names) for _ in range(count)], process)
        for at_s, count, process in crowds
    ]
    heapq.heapify(visits)
    manner = itertools.cycle(manners)
    admitted: list[tuple[float, float]] = []  # not before, not after
    while visits and visits[0].at_s < start_s + 12:
        visit = heapq.heappop(visits)
        before_s = await bucket.now_s()
        if before_s < visit.at_s:
            await bucket.pass_time(visit.at_s - before_s)
            before_s = await bucket.now_s()
        reply = await bucket.ask(*visit.names, wanted=wanted)
        after_s = await bucket.now_s()
        # Leased tokens are all spent, as late as they may be.
        admitted += [(before_s + LEASE_S, before_s + LEASE_S)] * reply.leased
        for name, wait_s in zip(visit.names, reply.waits_s, strict=True):
            if wait_s == 0:
                admitted.append((before_s, after_s))
                continue
            assert not visit.promised, f"{name} came when told and was refused"
            obeys, late_s = next(manner)
            if obeys:
                back_s = after_s + max(1, math.ceil(wait_s)) + late_s
                process = (visit.process + 1) % 4
                heapq.heappush(visits, Visit(back_s, [name], process, promised=True))
    admitted.sort()
    for i, (first_s, _) in enumerate(admitted):
        for j in range(i, len(admitted)):
            bound = rate * (admitted[j][1] - first_s) + 2 * rate + 1
            assert j - i + 1 <= bound + 1e-6, (i, j)
