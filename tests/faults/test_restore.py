"""PostgreSQL is restored from a backup in the middle of a sale: nothing that it forgot is lost.

The test has stores of its own. The backup is a copy of the data directory of the stopped server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from config.settings import Settings
from ops.buyers import grab
from ops.sandbox_provider import Sandbox, SandboxBehaviour, SandboxCharge
from ops.stack.credentials import load_credentials
from ops.stack.services import Services, running_services, temporary_home
from seckill.adapters import migrations, postgres, redis_keys
from seckill.adapters import redis as redis_client
from seckill.consistency.verify import Ledger, verify
from seckill.inventory.reservations import Stock
from seckill.payments.provider import ChargeStatus
from seckill.payments.sandbox_client import SandboxClient
from seckill.sales import sales
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale
from tests.processes import Process, Processes, eventually

STOCK, PRICE = 12, 1999
#: A store was restarted, and all processes wait for it with growing pauses.
PATIENCE_S = 60


@pytest.fixture
async def own_services() -> AsyncIterator[tuple[Path, Services]]:
    with temporary_home() as home:
        async with running_services(home) as services:
            await migrations.migrate(services.postgres_dsn)
            yield home, services


@pytest.fixture
def settings(own_services: tuple[Path, Services]) -> Settings:
    """The settings of these stores, for the tickets and logins of this file, too."""
    home, services = own_services
    keys = load_credentials(home)
    return Settings(
        home=home,
        redis_url=services.redis_url,
        amqp_url=services.amqp_url,
        postgres_dsn=services.postgres_dsn,
        ticket_keys=keys.ticket_keys,
        jwt_keys=keys.jwt_keys,
        webhook_keys=keys.webhook_keys,
        admin_token=keys.admin_token,
    )


@dataclass(slots=True)
class CardShop:
    """A gateway and a consumer process, an open sale, and a provider that forgets nothing."""

    services: Services
    redis: Redis
    db: asyncpg.Pool
    provider: SandboxClient
    processes: Processes
    sandbox: Sandbox
    sale: Sale
    gateway: Process
    consumers: Process
    http: ClientSession
    ticket_for: Callable[..., str]
    login_for: Callable[[str], dict[str, str]]

    async def grab(self, buyer: str) -> tuple[int, str | None]:
        reply = await grab(self.http, self.sale.sale_id, buyer, self.ticket_for(self.sale, buyer))
        return reply.status, reply.order_id

    async def order(self, buyer: str) -> str:
        """Grab, and wait until the order can be paid."""
        status, order_id = await self.grab(buyer)
        assert status == 202
        assert order_id
        await self.until(buyer, order_id, "pending")
        return order_id

    async def pay(self, buyer: str, order_id: str) -> None:
        """Pay by card, and wait until the order is paid."""
        url, login = f"/v1/orders/{order_id}/payments", self.login_for(buyer)

        async def taken() -> bool:  # else a store is still on its way back
            async with self.http.post(url, json={"method": "card"}, headers=login) as reply:
                return reply.status in (200, 202)

        await eventually(taken, "the payment is taken", within_s=PATIENCE_S)
        await self.until(buyer, order_id, "paid")

    async def until(self, buyer: str, order_id: str, state: str) -> None:
        async def is_so() -> bool:
            url, login = f"/v1/orders/{order_id}", self.login_for(buyer)
            async with self.http.get(url, headers=login) as reply:
                return (await reply.json()).get("status") == state

        await eventually(is_so, f"the order is {state}", within_s=PATIENCE_S)

    async def ask(self, *words: str) -> tuple[int | None, Any]:
        """Run a command with --json; return its exit code and its answer."""
        code, out, err = await self.processes.ask(*words, "--json")
        assert out, err
        return code, json.loads(out)

    async def unready(self) -> bool:
        """Return whether `/readyz` names the sale."""
        async with ClientSession(self.gateway.admin_url) as admin, admin.get("/readyz") as reply:
            return "seckill sale recover restored" in await reply.text()

    async def marked_after(self, mark: int) -> bool:
        """Return whether Redis remembers a later mark of PostgreSQL."""
        return (await self.redis.zscore(redis_keys.history(), "mark") or 0) > mark

    async def count(self, *, wait_s: float = 0.0) -> Ledger:
        """Count the ledger as `seckill verify` does."""
        return await verify(
            self.redis, self.db, self.sale.sale_id, wait_s=wait_s, provider=self.provider
        )

    async def to_recover(self) -> float:
        """Return the metric of the consumers."""
        url = self.consumers.admin_url
        async with ClientSession(url) as admin, admin.get("/metrics") as reply:
            families = text_string_to_metric_families(await reply.text())
        return sum(
            sample.value
            for family in families
            if family.name == "seckill_sales_to_rebuild"
            for sample in family.samples
            if sample.labels["why"] == "restored"
        )

    def with_money(self) -> dict[str, list[ChargeStatus]]:
        """Return the charges that have money, by order."""
        found: dict[str, list[ChargeStatus]] = {}
        for charge in self.sandbox.charges.values():
            if charge.held_cents + charge.taken_cents:
                found.setdefault(charge.order_id, []).append(charge.status)
        return found

    async def copy_data(self, source: Path, target: Path) -> None:
        """Stop PostgreSQL, copy its data with all owners, and start it again."""
        await self.services.stop("postgresql")
        copy = f"rm -rf '{target}' && cp -a '{source}' '{target}'"
        assert await (await asyncio.create_subprocess_shell(copy)).wait() == 0
        await self.services.start("postgresql")

    @property
    def data(self) -> Path:
        return self.services.stores["postgresql"].children[-1].spec.cwd


@pytest.fixture
async def shop(own_services, settings, tmp_path, ticket_for, login_for) -> AsyncIterator[CardShop]:
    sandbox = Sandbox(SandboxBehaviour())
    async with (
        redis_client.connect(settings.redis_url, timeout_s=5) as redis,
        postgres.connect(settings.postgres_dsn, size=2, timeout_s=5) as db,
        sandbox.serving() as url,
        SandboxClient.open(url, timeout_s=5, calls_max=1) as provider,
        Processes(settings, tmp_path, SECKILL_PROVIDER_URL=url) as processes,
    ):
        stock = Stock(redis)
        sale = await sales.create(db, stock, NewSale("restored", STOCK, PRICE))
        sale = await sales.open_(db, stock, sale.sale_id)
        parts = await processes.run("gateway"), await processes.run("consumers")
        async with ClientSession(parts[0].url) as http:
            stores = own_services[1], redis, db, provider
            yield CardShop(*stores, processes, sandbox, sale, *parts, http, ticket_for, login_for)


async def test_a_postgresql_restored_from_a_backup_is_recovered_without_loss(shop):
    """Dumped before five payments: no buyer is charged twice, and no order and no unit is lost."""
    sale_id, backup = shop.sale.sale_id, shop.data.with_name("backup")
    known = {buyer: await shop.order(buyer) for buyer in ("ann", "bob", "eve")}
    # Given a backup, and after it five payments, two of them for orders that the backup lacks
    await shop.copy_data(shop.data, backup)
    late = {buyer: await shop.order(buyer) for buyer in ("joe", "kim", "lou")}
    paid = {buyer: (known | late)[buyer] for buyer in ("ann", "bob", "joe", "kim")}
    for buyer, order_id in paid.items():
        await shop.pay(buyer, order_id)
    charged = {order_id: [ChargeStatus.CAPTURED] for order_id in paid.values()}

    async def captured() -> bool:
        return shop.with_money() == charged

    await eventually(captured, "the charges are captured", within_s=PATIENCE_S)
    # and a charge whose buyer is in no store any more
    stray = SandboxCharge("card-stray-0", sale_id, "stray", 500)
    shop.sandbox.charges[stray.key] = stray
    stray.become(ChargeStatus.CAPTURED)
    mark = await shop.db.fetchval("SELECT mark FROM history")
    await eventually(lambda: shop.marked_after(mark), "the consumers have looked again")

    # When PostgreSQL is restored, then the sale is fenced, and every place names it
    await shop.copy_data(backup, shop.data)
    assert await eventually(shop.to_recover, "the metric", within_s=PATIENCE_S) == 1
    assert (await shop.grab("new"))[0] == 503
    assert f"seckill sale recover {sale_id}" in shop.consumers.child.spec.log.read_text()
    await eventually(shop.unready, "/readyz names it", within_s=PATIENCE_S)
    code, ledger = await shop.ask("verify", sale_id)
    assert (code, ledger["balanced"]) == (1, False)
    assert any("8496 cents of charges without a payment" in v for v in ledger["violations"])
    assert any(f"seckill sale recover {sale_id}" in v for v in ledger["violations"])
    # and who pays again is paid by the charge of before
    await shop.pay("ann", known["ann"])
    assert {k: v for k, v in shop.with_money().items() if k != "stray"} == charged

    # When it is recovered, then all orders are as they were, and the stray charge is named
    code, answer = await shop.ask("sale", "recover", sale_id)
    (report,) = answer["recovered"]
    assert code == 1
    assert sorted(report["placed"]) == sorted(late.values())
    assert {each["order_id"] for each in report["paid"]} == {*paid.values()} - {known["ann"]}
    assert [(o["key"], o["cents"]) for o in report["orphans"]] == [("card-stray-0", 500)]
    for buyer, order_id in (known | late).items():
        await shop.until(buyer, order_id, "paid" if buyer in paid else "pending")
    assert (await shop.count()).lines["charges without a payment"] == 1

    # When the operator has its money given back, then the ledger balances
    code, answer = await shop.ask("sale", "recover", sale_id, "--void")
    assert (code, stray.status) == (0, ChargeStatus.VOIDED)
    # and the sale sells exactly the rest
    statuses = [(await shop.grab(f"new{number}"))[0] for number in range(STOCK)]
    assert statuses.count(202) == STOCK - len(known | late)
    ledger = await shop.count(wait_s=PATIENCE_S)
    assert ledger.violations == []
    assert (ledger.lines["orders paid"], ledger.lines["available"]) == (4, 0)
    assert shop.with_money() == charged
