"""Two gateways on one port, four on their own, and a consumer: for the tests that break nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from aiohttp import ClientSession, TCPConnector, TraceConfig
from redis.asyncio import Redis

from config.limits import Op
from config.settings import Settings
from ops.buyers import grab
from ops.processes.ports import free_port
from seckill.sales import rate_limits
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.sales import Sale
from seckill.sales.token_buckets import TokenBuckets
from tests.contract import Contract
from tests.processes import Process, Processes

#: What plays on the hot route is played on both lanes, with the same answers.
ON_BOTH_LANES = {
    f"tests.acceptance.test_{name}"
    for name in ("bad_clients", "cors", "edge_headers", "flash_sale", "http_contract", "latch")
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lane" in metafunc.fixturenames and metafunc.module.__name__ in ON_BOTH_LANES:
        metafunc.parametrize("lane", ["fast", "aiohttp"], scope="module")


@pytest.fixture(scope="module")
def lane() -> str:
    """Which way plain grabs go at the gateways of a module."""
    return "fast"


@pytest.fixture(scope="module")
async def processes(settings: Settings, tmp_path_factory: pytest.TempPathFactory, lane: str):
    home = tmp_path_factory.mktemp("processes")
    async with Processes(settings, home, SECKILL_FAST_LANE=str(lane == "fast")) as running:
        yield running


@pytest.fixture(scope="module")
async def gateway(processes: Processes) -> Process:
    """Both gateways behind one address."""
    port = free_port()
    await processes.run("gateway", port=port)
    return await processes.run("gateway", port=port)


@pytest.fixture(scope="module")
async def consumers(processes: Processes) -> Process:
    return await processes.run("consumers")


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract()


@pytest.fixture
async def http(gateway: Process, contract: Contract) -> AsyncIterator[ClientSession]:
    """One connection: every request of a test goes over it, after whatever went before.

    Every answer is held against the published contract.
    """

    async def check(session, context, end) -> None:
        answer = end.response
        body = await answer.read() if answer.content_type.endswith("json") else b""
        contract.check(end.method, end.url.raw_path, answer.status, answer.headers, body)

    trace = TraceConfig()
    trace.on_request_end.append(check)
    connector = TCPConnector(limit=1)
    async with ClientSession(gateway.url, connector=connector, trace_configs=[trace]) as session:
        yield session


@pytest.fixture(scope="module")
async def four_gateways(processes: Processes) -> list[Process]:
    """Four gateways, each at its own address."""
    return [await processes.run("gateway") for _ in range(4)]


@pytest.fixture
async def each(four_gateways: list[Process]) -> AsyncIterator[list[ClientSession]]:
    """A session with each of the four."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ClientSession(g.url)) for g in four_gateways]


@pytest.fixture
def set_limit(db: asyncpg.Pool, store: Redis) -> Callable[..., Awaitable[SaleLimit]]:
    """Give a sale a limit of its own: `await set_limit(sale, rate=1, burst=5)`."""

    async def set_limit(
        sale: Sale, op: Op = "try", *, rate: int, burst: int | None = None
    ) -> SaleLimit:
        limit = SaleLimit.of(rate, burst)
        await rate_limits.set_limit(db, TokenBuckets(store), sale.sale_id, op, limit)
        return limit

    return set_limit


@pytest.fixture
def order_for(ticket_for):
    """Grab: `order_id = await order_for(http, sale, "alice")`."""

    async def make(http, sale, buyer):
        answer = await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))
        assert answer.status == 202
        return answer.order_id

    return make


@pytest.fixture
def placing_held(db):
    """Let no order of a sale be placed inside the block."""

    @asynccontextmanager
    async def hold(sale):
        async with db.acquire() as connection, connection.transaction():
            await connection.execute(
                "SELECT FROM inventory WHERE sale_id = $1 FOR UPDATE", sale.sale_id
            )
            yield

    return hold
