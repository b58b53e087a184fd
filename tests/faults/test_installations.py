"""Two installations that are given the same Redis and the same RabbitMQ."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
from aiohttp import ClientSession

from ops.buyers import grab
from ops.processes.child import StartFailed
from seckill.adapters import installation, migrations, namespace, postgres, redis_keys
from seckill.adapters import redis as redis_client
from seckill.consistency import requirements
from seckill.errors import ForeignStore, NotReady
from tests.processes import Process, Processes, eventually

UNITS = 6


@pytest.fixture
async def second(settings, db, tmp_path):
    """Another installation on the session's Redis and RabbitMQ: it has a database of its own."""
    name = "second_installation"
    await db.execute(f"CREATE DATABASE {name}")
    try:
        dsn = settings.postgres_dsn.rpartition("/")[0] + f"/{name}"
        await migrations.migrate(dsn)
        own = settings.model_copy(update={"postgres_dsn": dsn})
        async with Processes(own, tmp_path / "second") as processes:
            yield processes
    finally:
        await db.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_second_installation_on_the_same_stores_is_refused_in_one_line(
    processes, second, db, open_sale
):
    sale = await open_sale()
    # Given that the first one has started.
    assert (await processes.ask("sale", "show", sale.sale_id))[0] == 0
    await processes.run("consumers")
    ours = await db.fetchval("SELECT id FROM installation")

    commands = (["gateway"], ["consumers"], ["pool", "start"], ["sale", "show", sale.sale_id])
    refusals = await asyncio.gather(*(second.ask(*words) for words in commands))

    for code, out, err in refusals[:-1]:
        assert code == 1, err
        line = (out + err).strip()
        assert "\n" not in line
        assert "Traceback" not in line
        for part in ("Redis at", "RabbitMQ at", ours, "SECKILL_NAMESPACE"):
            assert part in line
    code, out, err = refusals[-1]  # its own database has no such sale; nothing else was asked
    assert code != 0
    code, _, err = await second.ask("sale", "create", "s", "--stock", "1", "--price-cents", "1")
    assert code == 1
    assert f"belongs to the installation {ours}" in err
    assert len(err.strip().splitlines()) == 1


async def test_two_installations_apart_by_a_namespace_sell_expire_and_verify(
    processes, second, ticket_for
):
    """Both sell a sale of the same id at the same time; its orders run out unpaid in two ways."""
    ways = {"SECKILL_TIMEOUTS": "delay_queue,key_expiry"}
    apart = {**ways, "SECKILL_NAMESPACE": "shop-2"}
    sale_id = "the-same-name"

    async def ask(on, environment, *words):
        code, out, err = await on.ask(*words, **environment)
        assert code == 0, err
        return out

    async def sell(on, environment, buyers):
        terms = ("--stock", UNITS, "--price-cents", 100, "--payment-window", 1)
        await ask(on, environment, "sale", "create", sale_id, *terms)
        await ask(on, environment, "sale", "open", sale_id)
        gateway = await on.run("gateway", **environment)
        await on.run("consumers", **environment)
        async with ClientSession(gateway.url) as http:
            for n in range(buyers):
                ticket = ticket_for(SimpleNamespace(sale_id=sale_id), f"b{n}")
                assert (await grab(http, sale_id, f"b{n}", ticket)).status == 202

        async def all_ran_out():
            words = ("verify", sale_id, "--wait", 60, "--json")
            lines = json.loads(await ask(on, environment, *words))["lines"]
            return lines["orders_cancelled"] == buyers and lines["redis_stock"] == UNITS

        await eventually(all_ran_out, "every order has run out", within_s=60)

    await asyncio.gather(sell(processes, ways, UNITS), sell(second, apart, UNITS - 2))

    # A command without the namespace is refused, instead of looking at the other one's sale.
    code, _, err = await second.ask("sale", "show", sale_id)
    assert code == 1
    assert "'shop-2'" in err
    assert len(err.strip().splitlines()) == 1


async def test_a_gateway_lets_go_of_a_redis_that_another_installation_has_taken(
    processes, settings, db
):
    """An emptied Redis is claimed again; one that is another installation's by then is not used."""
    url = settings.redis_url.removesuffix("/0") + "/7"
    gateway = await processes.run("gateway", SECKILL_REDIS_URL=url)
    ours = await db.fetchval("SELECT id FROM installation")
    async with (
        redis_client.connect(url, timeout_s=5) as redis,
        ClientSession(gateway.admin_url) as admin,
    ):
        key = redis_keys.installation()

        async def readiness():
            async with admin.get("/readyz") as response:
                return response.status, await response.text()

        async def claimed():
            return await redis.get(key) == ours.encode()

        async def refused():
            status, text = await readiness()
            return status == 503 and "belongs to the installation another" in text

        async def ready():
            return (await readiness())[0] == 200

        assert await claimed()
        await redis.flushdb()
        await eventually(claimed, "the gateway has claimed the emptied Redis")
        await redis.set(key, "another")
        await eventually(refused, "the gateway has let go of it, and says why")
        await redis.set(key, ours)
        await eventually(ready, "it goes on by itself")
        await redis.flushdb()


@pytest.fixture
async def two_databases(settings, db):
    """Settings of two installations that have a database each, and share the other stores."""
    names = ["first_of_two", "second_of_two"]
    try:
        made = []
        for name in names:
            await db.execute(f"CREATE DATABASE {name}")
            dsn = settings.postgres_dsn.rpartition("/")[0] + f"/{name}"
            await migrations.migrate(dsn)
            made.append(settings.model_copy(update={"postgres_dsn": dsn}))
        yield made
    finally:
        for name in names:
            await db.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def test_of_two_installations_that_start_at_once_one_gets_redis_and_rabbitmq(
    two_databases, tmp_path, store
):
    """A namespace that nobody has used has no mark in either store."""
    ways = {"SECKILL_NAMESPACE": "race"}
    async with AsyncExitStack() as stack:
        both = []
        for number, own in enumerate(two_databases):
            home = tmp_path / str(number)
            both.append(await stack.enter_async_context(Processes(own, home, **ways)))
        runs = await asyncio.gather(
            *(each.run("consumers") for each in both), return_exceptions=True
        )
        started = [run for run in runs if isinstance(run, Process)]
        (refused,) = [str(run) for run in runs if isinstance(run, StartFailed)]
        (winner,) = started
        async with ClientSession(winner.admin_url) as admin:

            async def ready():
                async with admin.get("/readyz") as response:
                    return response.status == 200

            await eventually(ready, "the winner works with all its stores")
    owner = (await store.get("race:sk:installation")).decode()
    _, *end = refused.splitlines()  # after the name of the log
    assert len(end) == 1, refused
    assert "Redis at" in end[0]
    assert f"belongs to the installation {owner}" in end[0]


@pytest.fixture
def unused_namespace():
    yield
    namespace.use("")


async def test_two_that_race_never_get_one_store_each(two_databases, unused_namespace):
    for number in range(5):
        own = [each.model_copy(update={"namespace": f"race{number}"}) for each in two_databases]
        for each in own:
            async with postgres.connect(each.postgres_dsn, size=1, timeout_s=10) as pool:
                await pool.execute("UPDATE installation SET namespace = NULL")
        ends = await asyncio.gather(*map(requirements.require, own), return_exceptions=True)
        (refusal,) = filter(None, ends)
        assert isinstance(refusal, NotReady)
        assert "belongs to the installation" in str(refusal)


async def test_of_two_namespaces_that_start_at_once_on_one_database_one_gets_it(
    two_databases, unused_namespace
):
    own = [two_databases[0].model_copy(update={"namespace": name}) for name in ("left", "right")]

    async def join(settings):
        async with postgres.connect(settings.postgres_dsn, size=1, timeout_s=10) as pool:
            return await installation.join(pool, settings.namespace)

    first, second = await asyncio.gather(*map(join, own), return_exceptions=True)
    refusal = first if isinstance(first, ForeignStore) else second
    assert isinstance(refusal, ForeignStore)
    assert "SECKILL_NAMESPACE" in str(refusal)
    assert isinstance(first, str) or isinstance(second, str)
