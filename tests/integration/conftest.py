"""What the tests of orders, sales and consumers share: their stores, queues, roles and patience."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractIncomingMessage
from redis.asyncio import Redis

from config.settings import Settings
from consumers.roles.place_orders import PlaceOrders
from consumers.runtime.batch_progress import Handler
from consumers.runtime.queue_role import QueueRole
from consumers.runtime.retries import RetrySchedule
from consumers.runtime.role import Role
from consumers.timers import StartTimers, Timers, timer_kinds
from seckill.adapters import postgres
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.consistency.verify import Ledger
from seckill.consistency.verify import verify as verify_sale
from seckill.inventory.reservations import Stock
from seckill.orders.orders import NotPlaced
from seckill.sales.directory import SaleDirectory
from seckill.sales.sales import Sale
from tests.fulfilment import FulfilmentWorker
from tests.integration import patience
from tests.integration.letters import Letters
from tests.integration.patience import PATIENCE_S, Eventually
from tests.integration.queues import Queues
from tests.integration.shop import Shop


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait until a check (plain or async) is true: `await eventually(check, "what")`."""
    return patience.eventually


@pytest.fixture
def shop(db: asyncpg.Pool, store: Redis, stock: Stock) -> Shop:
    return Shop(db, store, stock)


@pytest.fixture
def assert_balanced(
    assert_balanced: Callable[..., Awaitable[Ledger]], db: asyncpg.Pool
) -> Callable[..., Awaitable[Ledger]]:
    """Fulfil what is paid, as no worker runs here, and assert that every invariant holds."""

    async def check(sale: Sale, **how: float) -> Ledger:
        await FulfilmentWorker(db).run(sale.sale_id)
        return await assert_balanced(sale, **how)

    return check


@pytest.fixture
def verify(store: Redis, db: asyncpg.Pool) -> Callable[..., Awaitable[Ledger]]:
    """Count a sale, and return its ledger."""

    async def call(sale: Sale, *, wait_s: float = 0.0) -> Ledger:
        return await verify_sale(store, db, sale.sale_id, wait_s=wait_s)

    return call


def _outcomes(refused: Sequence[NotPlaced]) -> dict[str, str]:
    return {r.order_id: " ".join(filter(None, (r.outcome, r.why))) for r in refused}


@pytest.fixture(scope="session")
def outcomes() -> Callable[[Sequence[NotPlaced]], dict[str, str]]:
    """Return the reply of `place` as order_id -> "outcome why"."""
    return _outcomes


@pytest.fixture
async def letters(db: asyncpg.Pool) -> Letters:
    await db.execute("TRUNCATE dead_letters CASCADE")
    await db.execute("DELETE FROM audit WHERE action LIKE 'dead.%'")
    return Letters(db)


@pytest.fixture(scope="session")
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    broker = Broker(settings.amqp_url, "test-publishing", timeout_s=15)
    async with Publisher.open(broker, timeout_s=15) as publisher:
        yield publisher


@pytest.fixture
async def queues(settings: Settings, publisher: Publisher) -> AsyncIterator[Queues]:
    """The queues, empty before and after each test."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        found = Queues(await connection.channel(), settings.amqp_url)
        await found.empty()
        yield found
        await found.empty()


@pytest.fixture
def place_orders(
    db: asyncpg.Pool, store: Redis, publisher: Publisher
) -> Callable[..., PlaceOrders]:
    """Make the handler of orders.place; it starts the given timers, then those named."""

    def make(
        *timeouts: str, sales: SaleDirectory | None = None, **given: StartTimers
    ) -> PlaceOrders:
        kinds = {**given, **timer_kinds(timeouts, publisher, store)}
        return PlaceOrders(db, store, Timers(sales or SaleDirectory(db), kinds), publisher)

    return make


@pytest.fixture
def queue_role(
    settings: Settings, publisher: Publisher, db: asyncpg.Pool
) -> Callable[..., QueueRole]:
    """Make a consumer as `seckill consumers` does: `queue_role(queue, handle)`."""

    def make(
        queue: str,
        handle: Handler,
        *,
        batch_max: int = 1000,
        url: str = settings.amqp_url,
        key: Callable[[AbstractIncomingMessage], str] = lambda _: "",
        retries: RetrySchedule | None = None,
    ) -> QueueRole:
        return QueueRole(
            "test",
            Broker(url, "test-consuming", timeout_s=15),
            queue,
            handle,
            retries or RetrySchedule(publisher, queue),
            partial(postgres.ask, db),
            prefetch=300,
            batch_max=batch_max,
            key=key,
        )

    return make


@pytest.fixture(scope="session")
def running() -> Callable[[Role], AbstractAsyncContextManager[asyncio.Task[None]]]:
    """Run a role for as long as the block lasts; its exception, if any, is raised at the end."""

    @asynccontextmanager
    async def run(role: Role) -> AsyncIterator[asyncio.Task[None]]:
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        try:
            yield task
        finally:
            stop.set()
            await asyncio.wait_for(task, PATIENCE_S)

    return run


@pytest.fixture
async def blocked(db: asyncpg.Pool) -> Callable[[], Awaitable[bool]]:
    """Return whether a session of the database waits for the lock of another one."""

    async def check() -> bool:
        waiting = await db.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(waiting)

    return check
