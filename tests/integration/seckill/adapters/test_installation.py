"""Whose stores these are: each new connection is compared, and a store without a mark is claimed.

Each test has a Redis database and a namespace of its own, so that it leaves the session's alone.
"""

from __future__ import annotations

import itertools
from functools import partial
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest

from consumers.runtime.queue_role import QueueRole
from consumers.runtime.retries import RetrySchedule
from seckill.adapters import installation, migrations, namespace, postgres, redis_keys, topology
from seckill.adapters import redis as redis_client
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.errors import FailureKind, ForeignStore
from seckill.order_ids import new_order_id

OURS, THEIRS = "0123456789ab", "ba9876543210"
_names = (f"test-{n}" for n in itertools.count())


@pytest.fixture
def own_names():
    """A namespace that no other test uses."""
    namespace.use(name := next(_names))
    yield name
    namespace.use("")


@pytest.fixture
def connect(redis):
    """Open a client of the test's own Redis database for an installation."""
    url = redis.connection_pool.connection_kwargs

    def make(installation_id):
        address = f"redis://:{url['password']}@{url['host']}:{url['port']}/{url['db']}"
        return redis_client.connect(address, timeout_s=5, installation_id=installation_id)

    return make


@pytest.fixture
def broker_of(settings, own_names):
    def make(installation_id):
        return Broker(settings.amqp_url, "test-installation", 15, installation_id)

    return make


async def take_mark_from_rabbitmq(settings):
    """Do what an emptied broker has done to the mark."""
    async with Broker(settings.amqp_url, "test", 15).channel() as channel:
        await channel.exchange_delete(topology.full_name(topology.INSTALLATION))


async def test_redis_is_claimed_by_the_first_and_refuses_the_second(redis, connect, own_names):
    async with connect(OURS) as ours, connect(THEIRS) as theirs:
        await ours.ping()
        for _ in range(2):  # the refused connection is not lent
            with pytest.raises(ForeignStore) as refused:
                await theirs.ping()
        assert await redis.get(redis_keys.installation()) == OURS.encode()
        assert refused.value.kind is FailureKind.CONFIGURATION
        line = str(refused.value)
        assert "\n" not in line
        kwargs = redis.connection_pool.connection_kwargs
        assert f"Redis at {kwargs['host']}:{kwargs['port']} belongs to" in line
        assert all(word in line for word in (OURS, THEIRS, "SECKILL_NAMESPACE", "REDIS_URL"))

        await redis.flushdb()
        await theirs.ping()
        assert await redis.get(redis_keys.installation()) == THEIRS.encode()


async def test_an_emptied_redis_is_claimed_again_over_links_that_stay_open(
    redis, connect, own_names, eventually
):
    key = redis_keys.installation()
    async with connect(OURS) as ours, installation.watched(ours, OURS):
        await ours.ping()
        await redis.flushdb()

        async def claimed():
            return await redis.get(key) == OURS.encode()

        await eventually(claimed, "the mark is there again")


async def test_a_redis_that_becomes_anothers_is_let_go_until_it_is_ours_again(
    redis, connect, own_names, eventually
):
    key = redis_keys.installation()

    async def refused():
        try:
            await ours.ping()
        except ForeignStore:
            return True
        except Exception:  # the link that was under way when all were closed
            return False
        return False

    async def serves():
        return not await refused()

    async with connect(OURS) as ours, installation.watched(ours, OURS):
        await ours.ping()
        await redis.set(key, THEIRS)
        await eventually(refused, "its links are closed, and new ones refused")
        await redis.set(key, OURS)
        await eventually(serves, "it is used again")


async def test_rabbitmq_is_claimed_by_the_first_and_refuses_the_second(settings, broker_of):
    for _ in range(2):
        async with broker_of(OURS).channel():
            pass
    with pytest.raises(ForeignStore) as refused:
        await broker_of(THEIRS).connect()
    line = str(refused.value)
    parts = urlsplit(settings.amqp_url)
    assert f"RabbitMQ at {parts.hostname}:{parts.port} belongs to" in line
    assert all(word in line for word in (OURS, THEIRS, "SECKILL_NAMESPACE", "AMQP_URL"))
    async with broker_of(OURS).channel():
        pass

    await take_mark_from_rabbitmq(settings)
    async with broker_of(THEIRS).channel():
        pass
    with pytest.raises(ForeignStore):
        await broker_of(OURS).connect()
    await take_mark_from_rabbitmq(settings)


async def test_nothing_is_published_to_or_taken_from_a_broker_that_became_anothers(
    settings, broker_of, publisher, db, running, eventually
):
    # Given a broker that was emptied, and claimed by another installation.
    async with broker_of(THEIRS).channel() as channel:
        exchange = (await topology.declare(channel)).exchange
        await exchange.publish(aio_pika.Message(b"theirs"), topology.ORDERS_PLACE)

    # When processes of ours connect, they are refused, and what waits there stays there.
    ours = Publisher(broker_of(OURS), timeout_s=15)
    with pytest.raises(ForeignStore):
        await ours.publish(topology.ORDERS_PLACE, b"ours")
    handled = []

    async def handle(batch):
        handled.extend(message.body for message in batch)

    class Counting(Broker):
        async def connect(self):
            try:
                return await super().connect()
            except ForeignStore as error:
                refusals.append(error)
                raise

    refusals = []
    role = QueueRole(
        "test",
        Counting(settings.amqp_url, "test-consuming", 15, OURS),
        topology.ORDERS_PLACE,
        handle,
        RetrySchedule(publisher, topology.ORDERS_PLACE),
        partial(postgres.ask, db),
        prefetch=10,
        batch_max=10,
    )
    async with running(role):

        async def refused():
            return refusals

        await eventually(refused, "the role is refused")
        assert handled == []

        # Then, once the broker is ours again, the role goes on by itself.
        await take_mark_from_rabbitmq(settings)

        async def taken():
            return handled == [b"theirs"]

        await eventually(taken, "the role consumes")
    await take_mark_from_rabbitmq(settings)


async def test_a_namespace_has_keys_exchanges_and_queues_of_its_own(
    settings, own_names, redis, queues
):
    assert redis_keys.stock("s") == f"{own_names}:sk:{{s}}:stock"
    order_id = new_order_id(1)
    assert redis_keys.order_of_expiry(redis_keys.expiry("s", order_id)) == order_id
    assert redis_keys.order_of_expiry(f"sk:{{s}}:expiry:{order_id}") is None
    broker = Broker(settings.amqp_url, "test-namespace", 15)
    async with Publisher.open(broker, timeout_s=15) as publisher:
        await publisher.publish(topology.ORDERS_PLACE, b"m")
        await publisher.publish_timer(60, b"t")
    assert await queues.size(topology.ORDERS_PLACE) == 0
    assert await queues.size(topology.full_name(topology.ORDERS_PLACE)) == 1
    assert await queues.size(f"{own_names}.{topology.timer(60)}") == 1


async def test_a_database_decides_once_about_its_namespace(empty_database):
    async with empty_database() as dsn:
        await migrations.migrate(dsn)
        async with postgres.connect(dsn, size=1, timeout_s=5) as pool:
            first = await installation.join(pool, "shop1")
            assert await installation.join(pool, "shop1") == first
            with pytest.raises(ForeignStore, match="SECKILL_NAMESPACE") as refused:
                await installation.join(pool, "")
    namespace.use("")
    assert "\n" not in str(refused.value)
    assert all(word in str(refused.value) for word in ("'shop1'", first, "''"))


async def test_a_pool_is_refused_another_installations_database(empty_database, db):
    async with empty_database() as dsn, empty_database() as other:
        for each in (dsn, other):
            await migrations.migrate(each)
        name, other_name = (each.rpartition("/")[2] for each in (dsn, other))
        async with postgres.connect(dsn, size=1, timeout_s=5) as pool:
            # The address comes to lead to another database.
            async with pool.acquire() as connection:
                pid = connection.get_server_pid()
            await db.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            for old, new in ((name, "aside"), (other_name, name)):
                await db.execute(f"ALTER DATABASE {old} RENAME TO {new}")
            try:
                with pytest.raises(ForeignStore, match=r"PostgreSQL at \S+ belongs to"):
                    async with postgres.transaction(pool):
                        pass
            finally:
                for old, new in ((name, other_name), ("aside", name)):
                    await db.execute(f"ALTER DATABASE {old} RENAME TO {new}")
            async with postgres.transaction(pool) as connection:  # it leads back
                assert await connection.fetchval("SELECT 1") == 1


async def test_a_role_with_a_schema_of_its_name_has_an_installation_of_its_own(empty_database, db):
    async with empty_database() as dsn:
        await migrations.migrate(dsn)
        parts = urlsplit(dsn)
        own = parts._replace(netloc=f"shop1:secret@{parts.hostname}:{parts.port}").geturl()
        connection = await asyncpg.connect(dsn)
        await connection.execute("CREATE ROLE shop1 LOGIN PASSWORD 'secret'")
        try:
            await connection.execute("CREATE SCHEMA AUTHORIZATION shop1")
            assert await migrations.migrate(own)
            async with (
                postgres.connect(dsn, size=1, timeout_s=5) as first,
                postgres.connect(own, size=1, timeout_s=5) as second,
            ):
                ids = [await installation.join(pool, "") for pool in (first, second)]
        finally:
            await connection.execute("DROP OWNED BY shop1 CASCADE; DROP ROLE shop1")
            await connection.close()
    assert ids[0] != ids[1]
