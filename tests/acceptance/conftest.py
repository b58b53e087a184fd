"""Two gateways on one port, four on their own, and a consumer: for the tests that break nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

import asyncpg
import pytest
from aiohttp import ClientSession, TCPConnector, TraceConfig
from redis.asyncio import Redis

from config.limits import Op
from config.settings import Settings
from gateway.shop.app import ROUTES as SHOP_ROUTES
from ops.buyers import PATIENCE, grab
from ops.processes.ports import free_port
from seckill.sales import rate_limits
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.sales import Sale
from seckill.sales.token_buckets import TokenBuckets
from seckill.shop import tokens
from tests import browser
from tests.acceptance.admin_api import bearer
from tests.acceptance.raw_clients import Client
from tests.contract import Contract
from tests.integration.letters import Letters
from tests.processes import Process, Processes

#: Each token of a test has a name of its own.
_tokens = itertools.count()
#: Tests of grabs that run twice: plain grabs taken by the connection, and by aiohttp.
TAKEN_BOTH_WAYS = {
    f"tests.acceptance.test_{name}"
    for name in (
        "connections",
        "cors",
        "edge_headers",
        "flash_sale",
        "http_contract",
        "latch",
        "load_shedding",
        "malformed_requests",
        "slow_clients",
    )
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "grabs_by" in metafunc.fixturenames and metafunc.module.__name__ in TAKEN_BOTH_WAYS:
        metafunc.parametrize("grabs_by", ["connection", "aiohttp"], scope="module")


@pytest.fixture(scope="module")
def grabs_by() -> str:
    """What takes plain grabs at the gateways of a module."""
    return "connection"


@pytest.fixture(scope="module")
async def processes(settings: Settings, tmp_path_factory: pytest.TempPathFactory, grabs_by: str):
    home = tmp_path_factory.mktemp("processes")
    fast_lane = str(grabs_by == "connection")
    async with Processes(settings, home, SECKILL_FAST_LANE=fast_lane) as running:
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


@pytest.fixture
def admin_token(settings: Settings) -> str:
    return settings.admin_token.get_secret_value()


@pytest.fixture
async def admin(gateway: Process, admin_token: str) -> AsyncIterator[ClientSession]:
    async with ClientSession(gateway.admin_url, headers=bearer(admin_token)) as session:
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


@pytest.fixture
def connect():
    """Connect: `client = await connect(gateway)`. All are closed in the end."""
    with ExitStack() as stack:

        def make(gateway, **options) -> Awaitable[Client]:
            client = Client()
            stack.callback(client.close)
            return client.connect(gateway, **options)

        yield make


@pytest.fixture
def others_served(open_sale, ticket_for):
    """Let honest buyers grab, one after another, while the block runs; each gets a unit."""

    @asynccontextmanager
    async def serving(gateway):
        sale, buyers = await open_sale(stock=100_000), itertools.count()
        over = asyncio.Event()

        async def press(http):
            buyer = f"b{next(buyers)}"
            answer = await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))
            assert answer.status == 202, answer
            async with http.get(f"/v1/sales/{sale.sale_id}") as response:
                assert response.status == 200

        async def press_on(http):
            while not over.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.02)
                await press(http)

        async with ClientSession(gateway.url, timeout=PATIENCE) as http:
            await press(http)
            pressing = asyncio.create_task(press_on(http))
            try:
                yield
            finally:
                over.set()
                await pressing

    return serving


@pytest.fixture
def no_tracebacks(processes):
    """Assert after a test that no gateway of its module has logged a bug."""
    yield
    for log in (processes.home / "logs").glob("gateway-*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()[-5_000:]


@pytest.fixture
async def letters(db):
    """The dead letters; there are none at first."""
    await db.execute("DELETE FROM dead_letters")
    return Letters(db)


@pytest.fixture(scope="session")
def browser_here() -> None:
    """Skip where there is no browser; fail on a machine that tests every change."""
    if lack := browser.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"browser: {lack}")


@pytest.fixture(scope="module")
async def chromium(browser_here: None):
    async with browser.chromium() as running:
        yield running


@pytest.fixture(scope="module")
async def shop_url(processes):
    port = free_port()
    await processes.run("gateway", SECKILL_SHOP_PORT=str(port), SECKILL_SHOP_RATE_PER_S="1000")
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def shop_contract():
    return Contract(SHOP_ROUTES)


@pytest.fixture
async def session_of(shop_url, shop_contract, db):
    """Make a session with a token of its own: `await session_of(Scope.MONEY)`."""
    sessions = []

    async def check(session, context, end):
        answer = end.response
        body = await answer.read() if answer.content_type.endswith("json") else b""
        shop_contract.check(end.method, end.url.raw_path, answer.status, answer.headers, body)

    async def make(*scopes):
        name = f"shop-api-{next(_tokens)}"
        token = await tokens.create(db, name, scopes, by="test")
        trace = TraceConfig()
        trace.on_request_end.append(check)
        made = ClientSession(shop_url, headers=bearer(token), trace_configs=[trace])
        made.token_name = name
        sessions.append(made)
        return made

    yield make
    for each in sessions:
        await each.close()
