"""Preflight: what is set up so that something could be lost is named, with what to do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from config.settings import PROJECT_ROOT
from ops.processes.ports import free_port
from ops.stack.credentials import load_credentials
from ops.stack.servers import redis as redis_store
from ops.stack.servers.server import StackHome
from ops.stack.services import Services, temporary_home
from seckill.adapters import redis as redis_client
from seckill.adapters import redis_keys, topology
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.consistency import preflight
from seckill.consistency.preflight import Preflight
from seckill.errors import Conflict, NotReady, Unavailable, WrongQueue
from seckill.inventory.reservations import Stock
from seckill.sales import sales
from seckill.sales.terms import NewSale


@pytest.fixture(scope="module")
async def own_redis_url() -> AsyncIterator[str]:
    """A Redis of this module: the tests change how it is set up."""
    with temporary_home() as home:
        store = await redis_store.prepare(StackHome(home, load_credentials(home)))
        services = Services({"redis": store})
        await services.start("redis")
        yield services.redis_url
        await services.stop("redis")


@pytest.fixture
async def own_redis(own_redis_url) -> AsyncIterator[Redis]:
    """That Redis, as our configuration file has it."""
    client = redis_client.connect(own_redis_url, timeout_s=5)
    right = {**preflight.REDIS_MUST_BE, preflight.KEYSPACE_EVENTS: "Ex"}
    async with client:
        yield client
        for name, value in right.items():
            await client.config_set(name, value)


@pytest.fixture
def broker(settings) -> Broker:
    return Broker(settings.amqp_url, "test-preflight", 15)


@pytest.fixture
def checks(own_redis, db, broker) -> Preflight:
    return Preflight(own_redis, db, broker, {"delay_queue", "key_expiry"})


@pytest.fixture
async def new(open_sale):
    """A sale that is to be opened."""
    return await open_sale(opened=False)


async def test_our_own_stores_are_as_they_must_be(checks, store, db, broker):
    for report in (await checks.check(), await Preflight(store, db, broker, ()).check()):
        assert (report.problems, report.warnings, report.unavailable) == ([], [], [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("appendfsync", "no"),
        ("no-appendfsync-on-rewrite", "yes"),
        ("maxmemory-policy", "allkeys-lru"),
        ("maxmemory-policy", "volatile-ttl"),
        ("save", "3600 1"),
    ],
)
async def test_F8_a_redis_that_could_lose_a_grab_is_a_problem(checks, own_redis, name, value):
    await own_redis.config_set(name, value)

    (line,) = (await checks.check()).problems

    assert line.startswith(f"Redis has {name} {value};")
    assert f'CONFIG SET {name} "{preflight.REDIS_MUST_BE[name]}"' in line
    assert "\n" not in line


async def test_what_it_says_to_do_mends_it(checks, own_redis):
    await own_redis.config_set("appendfsync", "everysec")
    (line,) = (await checks.check()).problems
    _, _, command = line.partition("(")
    words = command.partition(")")[0].replace('"', "").split()
    await own_redis.execute_command(*words)
    assert (await checks.check()).problems == []


async def test_a_managed_redis_that_tells_nothing_is_warned_of(
    checks, own_redis, own_redis_url, db, broker, new
):
    await own_redis.acl_setuser(
        "tenant", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-config"]
    )
    parts = urlsplit(own_redis_url)
    url = urlunsplit(parts._replace(netloc=f"tenant:x@{parts.hostname}:{parts.port}"))
    async with redis_client.connect(url, timeout_s=5) as tenant:
        managed = Preflight(tenant, db, broker, {"key_expiry"})
        report = await managed.check()
        assert await preflight.require(managed, new, only_warn=False) == report.warnings

    assert (report.problems, report.unavailable) == ([], [])
    assert "Redis does not report its appendfsync; make sure that it is always" in report.warnings
    assert "Redis does not report its notify-keyspace-events; key_expiry needs Ex there" in (
        report.warnings
    )


@pytest.mark.parametrize("flags", ["", "E", "x", "Kx", "Eg"])
async def test_a_redis_that_announces_no_expired_keys_is_warned_of(
    checks, own_redis, db, broker, flags
):
    await own_redis.config_set(preflight.KEYSPACE_EVENTS, flags)
    (line,) = (await checks.check()).warnings
    assert "key_expiry hears nothing" in line
    assert (await Preflight(own_redis, db, broker, {"delay_queue"}).check()).warnings == []


@pytest.mark.parametrize("flags", ["Ex", "EA", "KEA", "AKE"])
async def test_a_redis_that_announces_them_is_not(checks, own_redis, flags):
    await own_redis.config_set(preflight.KEYSPACE_EVENTS, flags)
    assert (await checks.check()).warnings == []


async def test_a_postgresql_that_could_lose_an_order_is_a_problem(own_redis, broker, settings):
    lax = {"synchronous_commit": "off"}
    async with asyncpg.create_pool(settings.postgres_dsn, min_size=1, server_settings=lax) as pool:
        (line,) = (await Preflight(own_redis, pool, broker, ()).check()).problems
    assert line.startswith("PostgreSQL has synchronous_commit off")
    assert "ALTER SYSTEM SET synchronous_commit = on" in line


async def test_a_queue_with_other_arguments_is_named_with_what_to_do(
    checks, broker, publisher, monkeypatch
):
    monkeypatch.setattr(topology, "DELIVERY_LIMIT", 21)  # what the broker has is of another limit

    (line,) = (await checks.check()).problems
    assert "queue orders.place was made by" in line
    assert "x-delivery-limit" in line
    assert "rabbitmqctl delete_queue orders.place" in line
    assert "\n" not in line
    with pytest.raises(WrongQueue) as refused:
        async with Publisher.open(broker, timeout_s=15):
            pass
    assert str(refused.value) == line


async def test_a_publisher_works_again_once_the_queue_is_right(broker, publisher, monkeypatch):
    """A person deletes the queue while the process runs."""
    async with Publisher.open(broker, timeout_s=15) as own:
        with monkeypatch.context() as wrong:
            wrong.setattr(topology, "DELIVERY_LIMIT", 21)
            own._drop()  # the link broke
            with pytest.raises(Unavailable):
                await own.publish(topology.dead(topology.ORDERS_EXPIRE), b"x")
        await own.publish(topology.dead(topology.ORDERS_EXPIRE), b"x")


async def test_each_unavailable_store_is_named(db, new):
    dead_redis = redis_client.connect(f"redis://127.0.0.1:{free_port()}/0", timeout_s=5)
    nowhere = Broker(f"amqp://u:p@127.0.0.1:{free_port()}/", "test", 5)
    async with dead_redis:
        checks = Preflight(dead_redis, db, nowhere, ())
        report = await checks.check()
        with pytest.raises(NotReady, match="does not open") as refused:
            await preflight.require(checks, new, only_warn=False)
    assert report.problems == []
    assert sorted(line.split()[0] for line in report.unavailable) == ["RabbitMQ", "Redis"]
    assert "SECKILL_PREFLIGHT" not in str(refused.value)  # nothing opens a sale without Redis


async def test_a_sale_that_redis_cannot_sell_is_listed(open_sale, store, db, broker):
    lost, empty, fenced, older, sound = [await open_sale() for _ in range(5)]
    await store.delete(redis_keys.sale(lost.sale_id), redis_keys.stock(empty.sale_id))
    await store.hset(redis_keys.sale(fenced.sale_id), "state", "fenced")
    await store.hset(redis_keys.sale(older.sale_id), "epoch", 0)
    checks = Preflight(store, db, broker, ())

    report = await checks.check()

    assert report.problems == []
    bad = {lost.sale_id, empty.sale_id, fenced.sale_id, older.sale_id}
    assert report.sales.keys() & {*bad, sound.sale_id} == bad
    for sale_id in bad:
        with pytest.raises(Conflict, match=sale_id):
            await preflight.require(checks, await sales.find(db, sale_id), only_warn=True)
    assert await preflight.require(checks, sound, only_warn=False) == []


async def test_it_refuses_or_only_warns(checks, own_redis, new):
    await own_redis.config_set("appendfsync", "everysec")
    with pytest.raises(NotReady, match="appendfsync") as refused:
        await preflight.require(checks, new, only_warn=False)
    assert "SECKILL_PREFLIGHT=warn" in str(refused.value)
    (line,) = await preflight.require(checks, new, only_warn=True)
    assert "appendfsync" in line


@pytest.mark.parametrize(("mode", "code"), [("refuse", 1), ("warn", 0)])
async def test_sale_open_refuses_or_warns(
    settings, own_redis, own_redis_url, db, tmp_path, mode, code
):
    """`seckill sale open` on a Redis that loses the last second of a crash."""
    own = Stock(own_redis)
    sale = await sales.create(db, own, NewSale(f"preflight-{mode}", 1, 1))
    await own_redis.config_set("appendfsync", "everysec")
    environment = {
        **os.environ,
        "SECKILL_HOME": str(tmp_path),
        "SECKILL_REDIS_URL": own_redis_url,
        "SECKILL_AMQP_URL": settings.amqp_url,
        "SECKILL_POSTGRES_DSN": settings.postgres_dsn,
        "SECKILL_PREFLIGHT": mode,
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ops.cli", "sale", "open", sale.sale_id, "--json"],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert "Redis has appendfsync everysec" in line
    assert (await sales.find(db, sale.sale_id)).was_opened is (mode == "warn")
