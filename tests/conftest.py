"""The services, started once a session by the project's own launcher, and a sale for each test."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import hypothesis
import pytest
from redis.asyncio import Redis

from config.settings import Settings
from ops.stack.credentials import load_credentials
from ops.stack.services import Services, running_services, temporary_home
from seckill.adapters import migrations, postgres
from seckill.adapters import redis as redis_client
from seckill.auth import login_tokens, tickets
from seckill.auth.key_ring import KeyRing
from seckill.consistency import verify
from seckill.inventory.reservations import Stock
from seckill.sales import sales
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale
from tests import pgbouncer
from tests.checkout import CheckoutBench
from tests.transactions import Probe, TransactionBench

#: `pytest --hypothesis-profile=thorough`: many more examples where a test has few by itself.
hypothesis.settings.register_profile("thorough", deadline=None)

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pooler", action="store_true", help="reach PostgreSQL through PgBouncer, transaction mode"
    )


OpenSale = Callable[..., Awaitable[Sale]]


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    with temporary_home() as home:
        yield home


@pytest.fixture(scope="session")
async def services(home: Path) -> AsyncIterator[Services]:
    async with running_services(home) as running:
        await migrations.migrate(running.postgres_dsn)
        yield running


@pytest.fixture(scope="session")
def pgbouncer_here() -> None:
    """Skip where there is no PgBouncer; fail on a machine that tests every change."""
    if lack := pgbouncer.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"pgbouncer: {lack}")


@pytest.fixture(scope="session")
async def postgres_dsn(services: Services, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """PostgreSQL as every process reaches it: directly, or through a pooler."""
    if not request.config.getoption("--pooler"):
        yield services.postgres_dsn
        return
    async with pgbouncer.in_front(services.postgres_dsn, sessions=20) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def settings(services: Services, home: Path, postgres_dsn: str) -> Settings:
    credentials = load_credentials(home)
    return Settings(
        home=home,
        redis_url=services.redis_url,
        amqp_url=services.amqp_url,
        postgres_dsn=postgres_dsn,
        ticket_keys=credentials.ticket_keys,
        jwt_keys=credentials.jwt_keys,
        webhook_keys=credentials.webhook_keys,
        shop_keys=credentials.shop_keys,
        admin_token=credentials.admin_token,
    )


@pytest.fixture(scope="session")
async def store(settings: Settings) -> AsyncIterator[Redis]:
    """Redis as the gateways see it; each test has sales of its own there."""
    client = redis_client.connect(settings.redis_url, timeout_s=5)
    yield client
    await client.aclose()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """An empty Redis database of the test's own."""
    client = redis_client.connect(settings.redis_url.removesuffix("/0") + "/9", timeout_s=5)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def stock(store: Redis) -> Stock:
    return Stock(store)


@pytest.fixture(scope="session")
async def db(settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    async with postgres.connect(settings.postgres_dsn, size=8, timeout_s=5) as pool:
        yield pool


@pytest.fixture
def open_sale(db: asyncpg.Pool, stock: Stock) -> OpenSale:
    """Make and open a sale of its own for a test: `await open_sale(stock=4)`."""

    async def make(*, stock: int = 10, opened: bool = True, **terms: Any) -> Sale:
        new = NewSale(f"sale-{next(_numbers)}", stock, 1999, **terms)
        sale = await sales.create(db, units, new)
        return await sales.open_(db, units, sale.sale_id) if opened else sale

    units = stock
    return make


@pytest.fixture
async def checkout(db: asyncpg.Pool, store: Redis) -> CheckoutBench:
    return CheckoutBench(db, store)


@pytest.fixture
async def probe(db: asyncpg.Pool) -> Probe:
    """Branches whose effects can be counted."""
    probe = Probe(db)
    await probe.create()
    return probe


@pytest.fixture
def bench(probe: Probe) -> TransactionBench:
    """A TCC of its own for a test."""
    return TransactionBench(probe)


@pytest.fixture
def assert_balanced(store: Redis, db: asyncpg.Pool) -> Callable[..., Awaitable[verify.Ledger]]:
    """Wait until a sale is quiet and assert that every invariant holds."""

    async def check(sale: Sale, *, wait_s: float = 30) -> verify.Ledger:
        ledger = await verify.verify(store, db, sale.sale_id, wait_s=wait_s)
        assert ledger.balanced, ledger.violations
        return ledger

    return check


@pytest.fixture
def ticket_for(settings: Settings) -> Callable[..., str]:
    """Make a buyer's ticket: `ticket_for(sale, "alice")`."""
    keys = KeyRing.parse(settings.ticket_keys.get_secret_value(), setting="test")

    def make(sale: Sale, buyer_id: str) -> str:
        return tickets.issue(
            keys, sale_id=sale.sale_id, buyer_id=buyer_id, expires_at_s=int(time.time()) + 3600
        )

    return make


@pytest.fixture
def login_for(settings: Settings) -> Callable[[str], dict[str, str]]:
    """Make the headers of a buyer who is logged in."""
    keys = KeyRing.parse(settings.jwt_keys.get_secret_value(), setting="test")

    def make(buyer_id: str) -> dict[str, str]:
        token = login_tokens.issue(keys, buyer_id=buyer_id, expires_at_s=int(time.time()) + 3600)
        return {"Authorization": f"Bearer {token}"}

    return make
