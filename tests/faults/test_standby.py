"""A PostgreSQL with a hot standby: the standby takes over, and orders are placed there."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiohttp import ClientSession

from ops.buyers import PATIENCE, grab
from ops.processes.child import Child, run_to_end
from ops.processes.ports import LOOPBACK, free_port
from ops.stack.credentials import load_credentials
from ops.stack.discovery import require
from ops.stack.servers import postgresql
from ops.stack.servers.server import StackHome, until_answers
from ops.stack.services import temporary_home
from seckill.adapters import migrations
from tests.processes import Processes, eventually

SALE = SimpleNamespace(sale_id="standby")
#: The session's Redis and RabbitMQ belong to another database.
NAMESPACE = "standby"


@asynccontextmanager
async def primary_and_standby():
    """Run both; yield the primary's process and address, and the standby's address."""
    with temporary_home() as home:
        place = StackHome(home, load_credentials(home))
        server = await postgresql.prepare(place)
        (primary,) = server.children
        data = home / "postgresql/data"
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("wal_level = replica\nmax_wal_senders = 4\nhot_standby = on\n")
        async with AsyncExitStack() as stack:
            await primary.start()
            stack.push_async_callback(primary.stop)
            standby = await start_standby(place, server.url, primary.spec)
            stack.push_async_callback(standby[0].stop)
            yield primary, server.url, standby[1]


async def start_standby(place, primary_url, spec):
    """Copy the primary while it runs, and start the copy as its standby."""
    where, port = urlsplit(primary_url), free_port()
    data = spec.cwd.with_name("standby")
    binaries = require("postgresql")
    copy = (
        "-D",
        data,
        "-R",
        "-X",
        "stream",
        "-h",
        LOOPBACK,
        "-p",
        where.port,
        "-U",
        where.username,
    )
    await run_to_end(
        place.spec(
            "pg_basebackup",
            [binaries / "pg_basebackup", "--checkpoint=fast", *map(str, copy)],
            cwd=data.parent,
            env={"PGPASSWORD": where.password},
            user=spec.user,
        )
    )
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(f"port = {port}\n")
    url = where._replace(netloc=f"{where.username}:{where.password}@{LOOPBACK}:{port}").geturl()

    async def answers():
        await until_answers(lambda: ask(url, "SELECT 1"), (OSError, asyncpg.PostgresError))

    child = Child(
        place.spec(
            "standby",
            [binaries / "postgres", "-D", data],
            cwd=data,
            stop_signal=spec.stop_signal,
            user=spec.user,
        ),
        answers,
    )
    await child.start()
    return child, url


async def ask(url, query, *args):
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


@pytest.fixture
async def servers():
    if not (require("postgresql") / "pg_basebackup").exists():
        pytest.skip("this PostgreSQL came without pg_basebackup")
    async with primary_and_standby() as found:
        yield found


async def test_orders_are_placed_where_the_standby_took_over(
    servers, settings, tmp_path, ticket_for
):
    primary, primary_url, standby_url = servers
    user, _, hosts = urlsplit(primary_url).netloc.rpartition("@")
    both = f"{user}@{hosts},{LOOPBACK}:{urlsplit(standby_url).port}"
    dsn = urlsplit(primary_url)._replace(netloc=both).geturl()
    await migrations.migrate(dsn)

    async with Processes(
        settings, tmp_path, SECKILL_POSTGRES_DSN=dsn, SECKILL_NAMESPACE=NAMESPACE
    ) as processes:
        sale = ("sale", "create", SALE.sale_id, "--stock", "20", "--price-cents", "1999")
        for words in (sale, ("sale", "open", SALE.sale_id)):
            code, _, complaint = await processes.ask(*words)
            assert code == 0, complaint
        gateway = await processes.run("gateway")
        await processes.run("consumers")
        async with ClientSession(gateway.url, timeout=PATIENCE) as http:

            async def press(*buyers):
                for buyer in buyers:
                    answer = await grab(http, SALE.sale_id, buyer, ticket_for(SALE, buyer))
                    assert answer.status == 202, answer

            async def placed_at(url, number):
                async def all_of_them():
                    return await ask(url, "SELECT count(*) FROM orders") == number

                await eventually(all_of_them, f"{number} orders are placed", within_s=40)

            await press("ann", "bob", "cat")
            await placed_at(primary_url, 3)

            # A planned change: the primary stops writing, the standby gets the rest and takes over.
            # Every connection of our processes still leads to the old primary.
            await ask(primary_url, "ALTER SYSTEM SET default_transaction_read_only = on")
            await ask(primary_url, "SELECT pg_reload_conf()")
            await press("dan", "eve")
            end = await ask(primary_url, "SELECT pg_current_wal_lsn()::text")

            async def caught_up():
                return await ask(
                    standby_url, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end
                )

            await eventually(caught_up, "the standby has what the primary wrote")
            await ask(standby_url, "SELECT pg_promote()")
            await placed_at(standby_url, 5)

            # The machine of the first host is gone: nothing is held up, for new processes either.
            await primary.kill()
            await press("fay", "gus")
            await placed_at(standby_url, 7)
        code, out, complaint = await processes.ask("verify", SALE.sale_id, "--wait", "20")
        assert code == 0, out + complaint
