"""take_tokens.lua: a bucket keeps its bound, and a turn that is used in time gets a token."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from config.limits import Tier
from seckill.adapters import redis_keys
from seckill.sales.rate_limits import SaleLimit
from tests.lua.bucket import GRACE_S, LEASE_S, SALE, Bucket
from tests.lua.shop import Shop


@pytest.fixture
def bucket(redis: Redis) -> Bucket:
    return Bucket(redis)


async def test_a_full_bucket_has_its_burst(bucket: Bucket) -> None:
    assert await bucket.granted(100) == 20
    assert await bucket.granted(100) == 0


async def test_where_tokens_are_leased_a_lease_of_the_burst_is_kept_back(redis: Redis) -> None:
    """A leased token may be spent LEASE_S late; over any interval the bound must hold."""
    assert await Bucket(redis, Tier(rate=100, burst=200)).granted(300) == 190


@pytest.mark.parametrize(("rate", "burst"), [(1, 1), (1000, 1), (1000, 99)])
async def test_a_burst_that_is_hardly_a_lease_is_not_leased(
    redis: Redis, rate: int, burst: int
) -> None:
    bucket = Bucket(redis, Tier(rate=rate, burst=burst))
    assert (await bucket.ask("a", wanted=50)).leased == 0
    await bucket.pass_time(10)
    assert await bucket.granted(burst) == burst


async def test_tokens_come_back_at_the_rate_and_never_above_the_burst(bucket: Bucket) -> None:
    await bucket.granted(20)
    await bucket.pass_time(5)
    assert (await bucket.ask(*"abcde")).waits_s == [0] * 5
    await bucket.pass_time(3600)
    assert await bucket.granted(100) == 20


async def test_the_refused_get_turns_one_token_apart(bucket: Bucket) -> None:
    await bucket.granted(20)
    waits = (await bucket.ask("a", "b", "c")).waits_s
    assert waits[0] == pytest.approx(1, abs=0.5)
    assert [b - a for a, b in itertools.pairwise(waits)] == [pytest.approx(1)] * 2


async def test_F36_a_turn_is_kept_however_often_its_owner_asks(bucket: Bucket) -> None:
    """Asking more often, or at another process, gains nothing and loses nothing."""
    await bucket.granted(20)
    await bucket.ask("a", "b", "c")
    again = (await bucket.ask("c", "c", "a")).waits_s
    assert again[0] == again[1] == pytest.approx(3, abs=0.5)
    assert again[2] == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("late_s", [0.0, 0.5, GRACE_S - 0.5])
async def test_a_request_at_its_turn_gets_a_token_whatever_others_do(
    bucket: Bucket, late_s: float
) -> None:
    await bucket.granted(20)
    (wait,) = (await bucket.ask("patient")).waits_s
    await bucket.granted(500)
    await bucket.pass_time(wait + 0.001)
    await bucket.granted(500)
    await bucket.pass_time(late_s)
    await bucket.granted(500)
    assert (await bucket.ask("patient")).waits_s == [0]
    assert (await bucket.ask("patient")).waits_s != [0], "a turn is used once"


async def test_F19_an_unused_turn_is_given_to_others_after_the_grace(bucket: Bucket) -> None:
    """An abandoned turn must not block the line."""
    await bucket.granted(31)  # the last of them get a turn, and never use it
    assert await bucket.redis.zcard(redis_keys.line(SALE, "try")) == 11
    await bucket.pass_time(20 + GRACE_S)
    assert await bucket.granted(100) == 20


async def test_a_refusal_burns_no_token(bucket: Bucket) -> None:
    await bucket.granted(20)
    for _ in range(50):
        await bucket.ask("eager", "keen")
    await bucket.pass_time(20)
    waits = (await bucket.ask("eager", "keen", *(f"s{n}" for n in range(30)))).waits_s
    assert waits[:2] == [0, 0]
    assert waits.count(0) == 20


async def test_a_full_line_refuses_without_a_turn(bucket: Bucket) -> None:
    await bucket.granted(20)
    waits = (await bucket.ask("a", "b", "c", line_max=2)).waits_s
    assert [wait > 0 for wait in waits] == [True, True, False]
    assert waits[2] == pytest.approx(-3, abs=0.5)
    assert await bucket.redis.zcard(redis_keys.line(SALE, "try")) == 2


async def test_a_burst_too_small_to_keep_tokens_makes_no_promises(redis: Redis) -> None:
    bucket = Bucket(redis, Tier(rate=4, burst=5))
    assert await bucket.granted(20) == 5
    assert not await redis.exists(redis_keys.line(SALE, "try"))
    await bucket.pass_time(0.75)
    assert await bucket.granted(20) == 3


@given(rate=st.integers(1, 500), burst=st.integers(1, 1500))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_a_limit_says_truly_whether_it_keeps_turns(
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
    assert await bucket.granted(3000) >= 1799


async def test_a_killed_process_strands_one_lease_while_it_is_valid(redis: Redis) -> None:
    bucket = Bucket(redis, Tier(rate=1000, burst=2000))
    depth, lease = 1900, 100
    doomed = await bucket.ask("doomed", wanted=1_000_000)
    assert doomed.leased == lease
    rest = depth - 1 - lease
    assert await bucket.granted(rest) == rest, "the others have all that the process did not lease"
    await bucket.pass_time(LEASE_S)
    assert await bucket.granted(lease) == lease, "and then as much as the lease"


async def test_nothing_is_leased_while_a_turn_waits(bucket: Bucket) -> None:
    await bucket.granted(21)
    await bucket.pass_time(1.0)
    assert (await bucket.ask("a", wanted=10)).leased == 0


async def test_the_line_expires_with_its_last_turn(bucket: Bucket) -> None:
    await bucket.granted(40)
    ttl_ms = await bucket.redis.pttl(redis_keys.line(SALE, "try"))
    assert 20_000 < ttl_ms <= 20_000 + GRACE_S * 1000 + 10


async def test_an_operators_limit_holds_from_the_next_call_on(bucket: Bucket) -> None:
    await bucket.granted(20)
    await bucket.buckets.set_limit(SALE, "try", rate=100, burst=300)
    assert await bucket.granted(300) < 100, "the change makes no tokens"
    await bucket.pass_time(10)
    reply = await bucket.ask("a")
    assert (reply.rate, reply.burst) == (100, 300)
    assert await bucket.granted(500) in range(289, 389)
    await bucket.buckets.set_limit(SALE, "try", rate=1, burst=10)
    await bucket.pass_time(3600)
    assert await bucket.granted(100) == 10


async def test_a_limit_taken_away_leaves_the_configured_one(bucket: Bucket) -> None:
    configured = await bucket.ask("a")
    await bucket.buckets.set_limit(SALE, "try", rate=100, burst=300)
    await bucket.pass_time(10)
    await bucket.buckets.unset_limit(SALE, "try")
    reply = await bucket.ask("b")
    assert (reply.rate, reply.burst) == (configured.rate, configured.burst)
    assert await bucket.granted(300) < configured.burst, "what was saved up is capped"


async def test_a_burst_too_small_for_turns_does_not_wait_for_an_old_line(bucket: Bucket) -> None:
    """The names in the line may never come; until their turns end no other would get a token."""
    await bucket.granted(1000)
    await bucket.buckets.set_limit(SALE, "try", rate=10, burst=1)
    granted = 0
    for _ in range(10):
        await bucket.pass_time(0.2)
        granted += await bucket.granted(5)
    assert granted == 10


async def test_setting_the_same_limit_again_breaks_no_turn(redis: Redis) -> None:
    """A change by an operator must not take the tokens kept for turns that are due."""
    bucket = Bucket(redis, Tier(rate=10, burst=21))
    waits = (await bucket.ask(*(f"n{n}" for n in range(30)))).waits_s
    patient = [f"n{n}" for n, wait in enumerate(waits) if wait > 0]
    assert len(patient) == 10
    await bucket.pass_time(1.01)
    await bucket.buckets.set_limit(SALE, "try", rate=10, burst=21)
    assert (await bucket.ask(*patient)).waits_s == [0] * 10


async def test_a_clock_that_steps_back_makes_no_tokens(bucket: Bucket) -> None:
    await bucket.granted(100)
    await bucket.redis.hincrby(redis_keys.bucket(SALE, "try"), "at", 3_600_000_000)
    assert await bucket.granted(100) == 0
