"""Most of those who are asked decide; who is silent or fails is not waited for in vain."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from seckill.adapters.redis_agreement import most_agreed
from seckill.errors import Unavailable


async def says(answer: str) -> str:
    return answer


async def is_silent() -> str:
    await asyncio.Event().wait()
    raise AssertionError("never")


async def fails() -> str:
    raise RedisConnectionError("refused")


async def test_most_decide_and_the_silent_one_is_not_waited_for() -> None:
    asked = [says("old"), is_silent(), says("new"), says("new"), says("new")]
    assert await most_agreed(asked, timeout_s=60) == "new"


async def test_without_a_majority_the_time_limit_decides() -> None:
    assert await most_agreed([says("new"), is_silent(), is_silent()], timeout_s=0.05) == "new"


async def test_failures_are_reported_when_nobody_answers() -> None:
    with pytest.raises(Unavailable, match="refused"):
        await most_agreed([fails(), is_silent()], timeout_s=0.05)
    with pytest.raises(Unavailable, match="does not answer within"):
        await most_agreed([is_silent()], timeout_s=0.05)


async def test_a_bug_is_no_failure_of_a_store() -> None:
    async def has_a_bug() -> str:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await most_agreed([has_a_bug()], timeout_s=60)
