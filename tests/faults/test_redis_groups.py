"""A sale on Redis as shops have it: sentinels, and a cluster. Masters die, slots move, it goes on.

The processes log in with the rights that docs/operating.md gives, and belong to a namespace.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from config.settings import PROJECT_ROOT, Settings
from ops.buyers import BuyerReply, grab
from ops.stack.servers.redis_groups import (
    RedisGroup,
    cluster_group,
    move_slot,
    sentinel_group,
)
from ops.stack.services import temporary_home
from seckill.adapters import installation, migrations, namespace, postgres, redis_keys
from seckill.adapters import redis as redis_client
from seckill.adapters.redis_slots import slot_of
from seckill.consistency import verify
from seckill.consistency.rebuild import Rebuild
from seckill.errors import ForeignStore
from seckill.inventory.reservations import Stock
from seckill.inventory.trial import try_grab
from seckill.sales import sales
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale
from tests.processes import Processes, eventually

PASSWORD = "s3cr3t"
#: Servers and processes look for each other with growing pauses.
PATIENCE_S = 60
LOST = re.compile(r"^seckill_lost_grab_batches_total [1-9]", re.MULTILINE)


def acl_user(name: str) -> str:
    """Return the user of docs/operating.md, as a line of redis.conf, for a namespace."""
    page = (PROJECT_ROOT / "docs" / "operating.md").read_text()
    found = re.search(r"^ACL SETUSER (seckill on >PASSWORD .*)$", page, re.MULTILINE)
    assert found
    rights = found[1].replace(">PASSWORD", f">{PASSWORD}").replace("~sk:*", f"~{name}:sk:*")
    return f"user {rights}"


@dataclass(slots=True)
class GroupShop:
    """A gateway and a consumer process on a group of servers, and an open sale."""

    group: RedisGroup
    redis: Redis
    db: asyncpg.Pool
    sale: Sale
    http: ClientSession
    admin: ClientSession
    ticket_for: Callable[..., str]
    won: dict[str, str] = field(default_factory=dict)

    async def press(self, buyer: str) -> BuyerReply:
        reply = await grab(self.http, self.sale.sale_id, buyer, self.ticket_for(self.sale, buyer))
        if reply.status == 202 and reply.order_id:
            self.won[buyer] = reply.order_id
        return reply

    async def sell(self, *buyers: str) -> None:
        """Let buyers press until each has an order; a refusal in between is a 503 or 429."""

        async def buy(buyer: str) -> None:
            async def has_order() -> bool:
                reply = await self.press(buyer)
                # 429: who presses this often while a node is away has a limit, too.
                assert reply.status in (0, 200, 202, 429, 503), reply
                if reply.status == 200:
                    assert self.won.setdefault(buyer, reply.order_id or "") == reply.order_id
                return reply.status in (200, 202)

            await eventually(has_order, f"{buyer} has an order", within_s=PATIENCE_S)

        await asyncio.gather(*map(buy, buyers))

    async def assert_ready(self) -> None:
        """Every server takes a grab on trial, and loses nothing, as far as its settings say."""

        async def is_ready() -> bool:
            async with self.admin.get("/readyz") as reply:
                return reply.status == 200

        await eventually(is_ready, "the gateway is ready", within_s=PATIENCE_S)

    async def assert_balanced(self, sold: int) -> None:
        ledger = await verify.verify(self.redis, self.db, self.sale.sale_id, wait_s=PATIENCE_S)
        assert ledger.balanced, ledger.violations
        rows = await self.db.fetch("SELECT order_id::text FROM orders WHERE state = 'pending'")
        assert {row[0] for row in rows} == set(self.won.values())
        assert len(rows) == sold


@asynccontextmanager
async def open_shop(
    group: RedisGroup,
    name: str,
    settings: Settings,
    folder: Path,
    ticket_for: Callable[..., str],
    *,
    min_replicas: int = 1,
) -> AsyncIterator[GroupShop]:
    """Open a shop of a database of its own, whose processes wait for so many replicas."""
    database = f"group_{secrets.token_hex(4)}"
    async with postgres.connect(settings.postgres_dsn, size=1, timeout_s=5) as owner:
        await owner.execute(f"CREATE DATABASE {database}")
    dsn = f"{settings.postgres_dsn.rpartition('/')[0]}/{database}"
    await migrations.migrate(dsn)
    url = re.sub("//[^@]*@", f"//seckill:{PASSWORD}@", group.url)
    own = settings.model_copy(update={"redis_url": url, "postgres_dsn": dsn})
    try:
        async with postgres.connect(dsn, size=4, timeout_s=5) as db:
            own_id = await installation.join(db, name)
            redis = redis_client.connect(url, timeout_s=5, installation_id=own_id)
            defaults = {"SECKILL_NAMESPACE": name, "SECKILL_REDIS_MIN_REPLICAS": str(min_replicas)}
            async with redis, Processes(own, folder, **defaults) as processes:
                stock = Stock(redis)
                sale = await sales.create(db, stock, NewSale("spring", 100, 1999))
                sale = await sales.open_(db, stock, sale.sale_id)
                gateway, _ = await asyncio.gather(
                    processes.run("gateway"), processes.run("consumers")
                )
                async with (
                    ClientSession(gateway.url) as http,
                    ClientSession(gateway.admin_url) as admin,
                ):
                    yield GroupShop(group, redis, db, sale, http, admin, ticket_for)
                with pytest.raises(ForeignStore):
                    async with redis_client.connect(
                        url, timeout_s=5, installation_id="another"
                    ) as stranger:
                        await Stock(stranger).left_of([sale.sale_id])
    finally:
        namespace.use("")
        namespace.use_cluster(False)


def names(first: int, count: int = 10) -> list[str]:
    return [f"buyer-{first + n}" for n in range(count)]


async def test_a_sale_behind_sentinels_goes_on_with_another_master(
    settings: Settings, tmp_path: Path, ticket_for
) -> None:
    with temporary_home() as home:
        async with (
            sentinel_group(home, acl_user("one")) as group,
            open_shop(group, "one", settings, tmp_path, ticket_for) as shop,
        ):
            await shop.sell(*names(0))
            master = await group.owner(shop.sale.sale_id)
            await without_replicas(shop, master)
            await group.servers[master].kill()
            await shop.sell(*names(20))
            await group.servers[master].start()
            await shop.sell(*names(30))
            await try_grab(shop.redis)
            await shop.assert_ready()
            await shop.assert_balanced(sold=31)


async def without_replicas(shop: GroupShop, master: int) -> None:
    """While no replica answers no grab is answered 202; a repeat gets its order later."""
    replicas = [port for port in shop.group.servers if port != master]
    for port in replicas:
        shop.group.servers[port].send(signal.SIGSTOP)
    replies = [await shop.press("lone") for _ in range(2)]
    assert [reply.status for reply in replies] == [503, 503]
    for port in replicas:
        shop.group.servers[port].send(signal.SIGCONT)
    await shop.sell("lone")


async def test_a_sale_on_a_cluster_goes_on_while_its_slot_moves_and_its_node_dies(
    settings: Settings, tmp_path: Path, ticket_for
) -> None:
    with temporary_home() as home:
        async with (
            cluster_group(home, acl_user("two")) as group,
            open_shop(group, "two", settings, tmp_path, ticket_for) as shop,
        ):
            sale_id = shop.sale.sale_id
            await shop.sell(*names(0))
            source = await group.owner(sale_id)
            target = next(port for port in await group.masters() if port != source)
            slot = slot_of(redis_keys.stock(sale_id))
            await asyncio.gather(shop.sell(*names(10)), move_slot(group, slot, source, target))
            assert await group.owner(sale_id) == target
            await shop.sell(*names(20))
            await group.servers[target].kill()
            selling = asyncio.create_task(shop.sell(*names(30)))

            async def taken_over() -> bool:
                return await group.owner(sale_id) != target

            await eventually(taken_over, "a replica is promoted", within_s=PATIENCE_S)
            await group.servers[target].start()
            await selling
            await try_grab(shop.redis)
            await shop.assert_ready()
            await shop.assert_balanced(sold=40)


async def test_a_promotion_that_lost_grabs_is_noticed_and_the_sale_rebuilt(
    settings: Settings, tmp_path: Path, ticket_for
) -> None:
    with temporary_home() as home:
        async with (
            sentinel_group(home, acl_user("three")) as group,
            open_shop(group, "three", settings, tmp_path, ticket_for, min_replicas=0) as shop,
        ):
            await shop.sell(*names(0))
            master = await group.owner(shop.sale.sale_id)
            for port in set(group.servers) - {master}:  # they lag from now on
                await group.ask(port, "CONFIG", "SET", "masterauth", "wrong")
            await group.ask(master, "CLIENT", "KILL", "TYPE", "replica")
            await shop.sell(*names(20))
            await group.servers[master].kill()

            async def is_noticed() -> object:
                await shop.press("late")
                async with shop.admin.get("/metrics") as reply:
                    return LOST.search(await reply.text())

            async def are_placed() -> bool:
                return bool(await shop.db.fetchval("SELECT count(*) FROM orders") == len(shop.won))

            await eventually(is_noticed, "the loss is counted", within_s=PATIENCE_S)
            assert (await shop.press("later")).status == 503
            await eventually(are_placed, "all orders are placed", within_s=PATIENCE_S)
            rebuild = Rebuild(shop.redis, shop.db)
            await rebuild.fence([shop.sale.sale_id])
            await rebuild.run(shop.sale.sale_id, actor="test", reason="behind")
            await shop.sell("later")
            await shop.assert_balanced(sold=len(shop.won))
