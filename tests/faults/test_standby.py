"""A PostgreSQL with a synchronous standby, which takes over, planned or not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiohttp import ClientSession

from loadtest.drills.clusters.postgresql import running_pair
from ops.buyers import PATIENCE, grab
from ops.stack.discovery import require
from ops.stack.services import temporary_home
from seckill.adapters import migrations
from tests.processes import Processes, eventually

SALE = SimpleNamespace(sale_id="standby")
#: The session's Redis and RabbitMQ belong to another database.
NAMESPACE = "standby"


@pytest.fixture
async def pair():
    if not (require("postgresql") / "pg_basebackup").exists():
        pytest.skip("this PostgreSQL came without pg_basebackup")
    with temporary_home() as home:
        async with running_pair(home) as pair:
            yield pair


@pytest.mark.timeout(400)
async def test_orders_are_placed_where_the_standby_took_over(pair, settings, tmp_path, ticket_for):
    await migrations.migrate(pair.url)

    async with Processes(
        settings, tmp_path, SECKILL_POSTGRES_DSN=pair.url, SECKILL_NAMESPACE=NAMESPACE
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

            async def placed(number):
                async def all_of_them():
                    return await pair.ask("SELECT count(*) FROM orders") == number

                await eventually(all_of_them, f"{number} orders are placed", within_s=60)

            await press("ann", "bob", "cat")
            await placed(3)

            # A planned change: the primary stops writing, the standby gets the rest and takes over.
            # Every connection of our processes still leads to the old primary.
            old = pair.primary
            await pair.ask("ALTER SYSTEM SET default_transaction_read_only = on")
            await pair.ask("SELECT pg_reload_conf()")
            await press("dan", "eve")
            end = await pair.ask("SELECT pg_current_wal_lsn()::text")

            async def caught_up():
                query = f"SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn"
                return await pair.ask(query, pair.standby)

            await eventually(caught_up, "the standby has what the primary wrote")
            await pair.promote()
            await placed(5)
            # The machine of the first host is gone: nothing is held up, for new processes either.
            await old.child.kill()
            await press("fay", "gus")
            await placed(7)
            await pair.rejoin()

            # No one's plan: all of the primary freezes, and comes to life again beside the new one.
            async with pair.frozen():
                await press("hal", "ida")
                await placed(9)
            await press("jim")
            await placed(10)
        code, out, complaint = await processes.ask("verify", SALE.sale_id, "--wait", "20")
        assert code == 0, out + complaint
