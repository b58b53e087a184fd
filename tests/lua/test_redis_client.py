"""The client's promises: one attempt a call, a bounded pool, and nothing left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from seckill.adapters import redis as redis_client
from seckill.adapters.redis import CONNECTIONS_MAX, PIPELINE_MAX, SCRIPTS_UNDER_WAY, PipeliningRedis
from seckill.errors import UserMistake
from tests.lua.shop import Shop
from tests.processes import eventually


def url_of(redis: Redis, *, name: str) -> str:
    of = redis.connection_pool.connection_kwargs
    password = f":{of['password']}@" if of.get("password") else ""
    return f"redis://{password}{of['host']}:{of['port']}/{of['db']}?client_name={name}"


async def open_links(redis: Redis, name: str) -> int:
    return sum(link["name"] == name for link in await redis.client_list())


async def test_F27_a_closed_client_leaves_no_connection(redis: Redis) -> None:
    client = redis_client.connect(url_of(redis, name="closing"), timeout_s=2)
    await asyncio.gather(*[client.ping() for _ in range(3)])
    assert await open_links(redis, "closing") == 3
    await client.aclose()

    async def none_is_left() -> bool:
        return await open_links(redis, "closing") == 0

    await eventually(none_is_left, "Redis has seen them go")


async def test_F27_more_calls_than_connections_wait_for_one(redis: Redis) -> None:
    client = redis_client.connect(url_of(redis, name="crowd"), timeout_s=5)
    await asyncio.gather(*[client.ping() for _ in range(CONNECTIONS_MAX * 5)])
    links = await open_links(redis, "crowd")
    await client.connection_pool.disconnect()
    assert links == CONNECTIONS_MAX


async def test_a_call_whose_link_breaks_is_not_sent_again(
    redis: Redis, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's default is ten more attempts; a grab whose reply was lost has been run."""
    client = redis_client.connect(url_of(redis, name="once"), timeout_s=2)
    await client.ping()
    pool = client.connection_pool
    link = await pool.get_connection()
    sent = []

    async def lose_the_reply(*_: object, **__: object) -> object:
        sent.append("command")
        raise RedisConnectionError("link broke")

    monkeypatch.setattr(type(link), "read_response", lose_the_reply)
    await pool.release(link)
    with pytest.raises(RedisConnectionError):
        await client.incr("counter")
    monkeypatch.undo()
    await pool.disconnect()
    assert sent == ["command"]


@pytest.fixture
async def pipelining(redis: Redis) -> AsyncIterator[PipeliningRedis]:
    url = url_of(redis, name="pipelining")
    client = redis_client.connect(url, timeout_s=2, kind=PipeliningRedis)
    assert isinstance(client, PipeliningRedis)
    yield client
    await client.aclose()


ECHO = "if ARGV[1] == 'bad' then return redis.error_reply('BAD luck') end return ARGV[1]"


async def reads(redis: Redis) -> int:
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_script_calls_of_one_moment_are_one_round_trip(
    redis: Redis, pipelining: PipeliningRedis
) -> None:
    echo = pipelining.register_script(ECHO)
    await echo(args=["known"])
    before = await reads(redis)
    replies = await asyncio.gather(*[echo(args=[str(n)]) for n in range(PIPELINE_MAX + 1)])
    # A full pipeline, one that is left over on a new link with its greetings, and our own look.
    assert await reads(redis) - before < 10
    assert replies == [b"%d" % n for n in range(PIPELINE_MAX + 1)]


async def test_a_script_that_redis_has_lost_is_loaded_again_for_all_of_a_pipeline(
    redis: Redis, pipelining: PipeliningRedis
) -> None:
    echo = pipelining.register_script(ECHO)
    await redis.script_flush()
    replies = await asyncio.gather(*[echo(args=[str(n)]) for n in range(10)])
    assert replies == [b"%d" % n for n in range(10)]


async def test_an_error_in_a_pipeline_is_of_one_call(pipelining: PipeliningRedis) -> None:
    echo = pipelining.register_script(ECHO)
    await echo(args=["known"])
    calls = [echo(args=[text]) for text in ("good", "bad", "better")]
    good, bad, better = await asyncio.gather(*calls, return_exceptions=True)
    assert (good, better) == (b"good", b"better")
    assert isinstance(bad, ResponseError)
    assert str(bad) == "BAD luck"


async def test_a_pipeline_whose_link_breaks_is_sent_once_and_fails_for_all(
    pipelining: PipeliningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = pipelining.register_script(ECHO)
    await echo(args=["known"])
    pool = pipelining.connection_pool
    link = await pool.get_connection()
    sent = []

    async def lose_the_reply(*_: object, **__: object) -> object:
        sent.append("pipeline")
        raise RedisConnectionError("link broke")

    monkeypatch.setattr(type(link), "read_response", lose_the_reply)
    await pool.release(link)
    outcomes = await asyncio.gather(*[echo(args=["x"]) for _ in range(5)], return_exceptions=True)
    monkeypatch.undo()
    await pool.disconnect()
    assert [type(outcome) for outcome in outcomes] == [RedisConnectionError] * 5
    assert sent == ["pipeline"]


async def test_a_call_that_waits_behind_a_stuck_redis_has_its_time_limit(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(PipeliningRedis, "_run", never)
    url = url_of(redis, name="stuck")
    client = redis_client.connect(url, timeout_s=0.05, kind=PipeliningRedis)
    calls = [client.evalsha("digest", 0) for _ in range(PIPELINE_MAX * SCRIPTS_UNDER_WAY + 1)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {TimeoutError}


async def test_a_call_without_a_waiting_caller_is_not_sent(
    redis: Redis, pipelining: PipeliningRedis
) -> None:
    count = pipelining.register_script("return redis.call('INCR', KEYS[1])")
    await count(keys=["count"])
    calls = [asyncio.create_task(count(keys=["count"])) for _ in range(3)]
    await asyncio.sleep(0)  # all of them wait for the end of this turn
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await redis.get("count") == b"3"


def test_an_option_that_the_library_does_not_know_is_named() -> None:
    with pytest.raises(UserMistake, match=r"SECKILL_REDIS_URL: redis:// has no option 'colour'"):
        redis_client.connect("redis://localhost/0?colour=red", timeout_s=1)
