"""A look says of a store what the work would meet there, in the store's own words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from config.settings import Settings
from ops.stack.credentials import load_credentials
from ops.stack.servers import redis as redis_store
from ops.stack.servers.server import StackHome
from ops.stack.services import Services, temporary_home
from seckill.adapters import redis as redis_client
from seckill.errors import Unavailable
from seckill.health.stores import look_at_postgresql, look_at_redis


@pytest.fixture(scope="module")
async def own_redis() -> AsyncIterator[Redis]:
    with temporary_home() as home:
        store = await redis_store.prepare(StackHome(home, load_credentials(home)))
        services = Services({"redis": store})
        await services.start("redis")
        async with redis_client.connect(services.redis_url, timeout_s=5) as client:
            yield client
        await services.stop("redis")


async def reason(look) -> str:
    with pytest.raises(Unavailable) as refused:
        await look
    return str(refused.value)


async def test_a_redis_that_takes_grabs_is_well_and_nothing_is_left_in_it(own_redis: Redis) -> None:
    await own_redis.flushall()
    await own_redis.script_flush()  # as after a restart
    await asyncio.gather(*(look_at_redis(own_redis) for _ in range(20)))
    assert await own_redis.dbsize() == 0


async def test_a_replica_refuses_and_one_that_writes_is_found_out_too(own_redis: Redis) -> None:
    await own_redis.replicaof("127.0.0.1", "1")
    try:
        assert "READONLY" in await reason(look_at_redis(own_redis))
        await own_redis.config_set("replica-read-only", "no")
        said = await reason(look_at_redis(own_redis))
        assert said == "Redis is a replica of 127.0.0.1:1: what it takes is lost"
    finally:
        await own_redis.config_set("replica-read-only", "yes")
        await own_redis.replicaof("NO", "ONE")
    await look_at_redis(own_redis)


async def test_a_full_redis_refuses(own_redis: Redis) -> None:
    await own_redis.config_set("maxmemory", "1")
    try:
        assert "OOM" in await reason(look_at_redis(own_redis))
    finally:
        await own_redis.config_set("maxmemory", "0")
    await look_at_redis(own_redis)


@pytest.mark.parametrize("right", ["evalsha", "xadd", "decrby", "hset"])
async def test_a_right_that_is_missing_is_found(own_redis: Redis, right: str) -> None:
    await own_redis.execute_command("ACL", "SETUSER", "default", f"-{right}")
    try:
        assert (await reason(look_at_redis(own_redis))).startswith("Redis refuses: ")
    finally:
        await own_redis.execute_command("ACL", "SETUSER", "default", "+@all")
    await look_at_redis(own_redis)


async def test_a_redis_that_keeps_its_role_to_itself_is_well(own_redis: Redis) -> None:
    await own_redis.execute_command("ACL", "SETUSER", "default", "-role")
    try:
        await look_at_redis(own_redis)
    finally:
        await own_redis.execute_command("ACL", "SETUSER", "default", "+@all")


async def test_postgresql_is_well_with_the_schema_of_this_version(db: asyncpg.Pool) -> None:
    await look_at_postgresql(db)


async def test_a_database_that_takes_no_writes_refuses(settings: Settings) -> None:
    read_only = {"default_transaction_read_only": "on"}
    async with asyncpg.create_pool(
        settings.postgres_dsn, min_size=1, max_size=1, server_settings=read_only
    ) as pool:
        said = await reason(look_at_postgresql(pool))
    assert said == "PostgreSQL takes no writes: transaction_read_only is on"


@pytest.mark.parametrize(
    ("change", "undo", "words"),
    [
        (
            "ALTER FUNCTION release RENAME TO release_",
            "ALTER FUNCTION release_ RENAME TO release",
            "has lost function release;",
        ),
        (
            "ALTER TABLE shipments RENAME TO shipments_",
            "ALTER TABLE shipments_ RENAME TO shipments",
            "has lost table shipments",
        ),
        (
            "INSERT INTO migrations VALUES ('9999_new.sql', '')",
            "DELETE FROM migrations WHERE name = '9999_new.sql'",
            "9999_new.sql, which this version does not know",
        ),
        (
            "ALTER TABLE migrations RENAME checksum TO hash",
            "ALTER TABLE migrations RENAME hash TO checksum",
            "belongs to another program",
        ),
    ],
)
async def test_another_schema_is_named(
    db: asyncpg.Pool, change: str, undo: str, words: str
) -> None:
    await db.execute(change)
    try:
        assert words in await reason(look_at_postgresql(db))
    finally:
        await db.execute(undo)
    await look_at_postgresql(db)
