"""What the tests of orders, sales and consumers share: grabs, rows, queues, and patience."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity
from redis.asyncio import Redis

from config.settings import Settings
from consumers.roles.place_orders import PlaceOrders
from consumers.runtime.queue_role import Handler, QueueRole
from consumers.runtime.retries import RetrySchedule
from consumers.runtime.role import Role
from consumers.timers import StartTimers, Timers, timer_kinds
from seckill import messages
from seckill.adapters import redis_keys, topology
from seckill.adapters.rabbitmq import Broker, Publisher
from seckill.consistency.verify import Ledger
from seckill.consistency.verify import verify as verify_sale
from seckill.dead_letters import parser
from seckill.dead_letters import store as dead_letters
from seckill.dead_letters.store import DeadLetter, LetterFilter, NewLetter
from seckill.inventory import stock_returns
from seckill.inventory.reservations import Grab, Holding, Stock, Verdict
from seckill.order_ids import new_order_id
from seckill.orders import orders
from seckill.orders.orders import NotPlaced, Placement
from seckill.sales.directory import SaleDirectory
from seckill.sales.sales import Sale
from tests.fulfilment import FulfilmentWorker

HOUR_MS = 3_600_000
#: Longest wait for something that takes a blink on an idle machine.
PATIENCE_S = 30.0

Eventually = Callable[[Callable[[], Any], str], Awaitable[Any]]


async def _eventually(check: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = check()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait until a check (plain or async) is true: `await eventually(check, "what")`."""
    return _eventually


@dataclass(frozen=True)
class Shop:
    """Both stores of a sale, with everything that a test does to them or reads."""

    db: asyncpg.Pool
    store: Redis
    stock: Stock

    # Grabs and orders.

    @staticmethod
    def wish(sale: Sale, buyer: str, quantity: int = 1, *, epoch: int = 1) -> Placement:
        """Make a placement that Redis does not know, as if it had promised too much."""
        return Placement(new_order_id(sale.number), sale.sale_id, buyer, quantity, epoch)

    async def grab(
        self, sale: Sale, *buyers: str, quantity: int = 1, settle: bool = True
    ) -> list[Placement]:
        """Grab in Redis for each buyer, as a gateway whose message the broker confirmed."""
        grabs = [Grab(new_order_id(sale.number), buyer, quantity) for buyer in buyers]
        reply = await self.stock.grab(
            sale.sale_id,
            grabs,
            deadline_ms=await self.stock.now_ms() + HOUR_MS,
            outbox_max=1000,
        )
        assert set(reply.verdicts) == {Verdict.ACCEPTED}
        if settle:
            await self.stock.ack_outbox(sale.sale_id, [reply.outbox_id])
        return [Placement(g[0], sale.sale_id, g[1], g[2], reply.epoch) for g in grabs]

    async def order(self, sale: Sale, *buyers: str, quantity: int = 1) -> list[Placement]:
        """Grab and place for each buyer."""
        placements = await self.grab(sale, *buyers, quantity=quantity)
        assert await self.place(*placements) == []
        return placements

    async def place(self, *placements: Placement) -> list[NotPlaced]:
        """Place a batch; return what did not become a pending order."""
        return await orders.place(self.db, placements)

    async def place_unseen(self, sale: Sale, buyer: str) -> Placement:
        """Place an order of which Redis knows nothing."""
        placement = self.wish(sale, buyer)
        assert await self.place(placement) == []
        return placement

    async def release(self, *placements: Placement) -> list[str]:
        """Cancel orders as their buyers would."""
        ids = [p.order_id for p in placements]
        return await orders.release(self.db, ids, to_state="cancelled", reason="buyer")

    async def return_all(self, sale: Sale) -> None:
        """Return units until no stock return of the sale is left."""
        while await self.returns(sale):
            assert (await stock_returns.return_batch(self.db, self.stock)).done

    async def bump_epoch(self, sale: Sale) -> None:
        """Do what a rebuild of Redis does first."""
        await self.db.execute(
            "UPDATE inventory SET epoch = epoch + 1 WHERE sale_id = $1", sale.sale_id
        )

    async def let_expire(self, *placements: Placement) -> None:
        """Move the end of the payment window an hour into the past."""
        await self.db.execute(
            "UPDATE orders SET pay_by = now() - interval '1 hour' WHERE order_id = ANY($1)",
            [p.order_id for p in placements],
        )

    # In PostgreSQL.

    async def inventory(self, sale: Sale) -> tuple[int, int, int]:
        """Return (available, frozen, sold)."""
        row = await self.db.fetchrow(
            "SELECT available, frozen, sold FROM inventory WHERE sale_id = $1", sale.sale_id
        )
        return tuple(row)

    async def rows(self, sale: Sale) -> dict[str, tuple[str, str | None]]:
        """Return order_id -> (state, reason)."""
        rows = await self.db.fetch(
            "SELECT order_id::text, state, reason FROM orders WHERE sale_id = $1", sale.sale_id
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    async def states(self, sale: Sale, placements: Sequence[Placement]) -> list[str | None]:
        """Return the states of these orders in their order, as `state` or `state reason`."""
        rows = await self.rows(sale)
        found = [rows.get(p.order_id) for p in placements]
        return [row and " ".join(filter(None, row)) for row in found]

    async def returns(self, sale: Sale) -> dict[str, int]:
        """Return order_id -> units on their way back."""
        return dict(
            await self.db.fetch(
                "SELECT order_id::text, units FROM stock_returns WHERE sale_id = $1", sale.sale_id
            )
        )

    # In Redis.

    async def left(self, sale: Sale) -> int | None:
        return (await self.stock.left_of([sale.sale_id]))[0]

    async def holders(self, sale: Sale) -> dict[str, Holding]:
        raw = await self.store.hgetall(redis_keys.holders(sale.sale_id))
        return {buyer.decode(): Holding.parse(text.decode()) for buyer, text in raw.items()}

    async def outbox_size(self, sale: Sale) -> int:
        return int(await self.store.xlen(redis_keys.outbox(sale.sale_id)))


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


class Queues:
    """The broker's queues, seen from outside."""

    def __init__(self, channel: AbstractChannel, url: str) -> None:
        self._channel = channel
        self._url = url

    async def take(
        self, name: str, count: int, *, no_ack: bool = True
    ) -> list[AbstractIncomingMessage]:
        """Wait for `count` messages and take them."""
        queue = await self._channel.get_queue(name, ensure=False)
        return [
            await _eventually(lambda: queue.get(fail=False, no_ack=no_ack), f"message in {name}")
            for _ in range(count)
        ]

    async def take_all(self, name: str) -> list[AbstractIncomingMessage]:
        """Take what lies in a queue now."""
        queue = await self._channel.get_queue(name, ensure=False)
        taken = []
        while (message := await queue.get(fail=False, no_ack=True)) is not None:
            taken.append(message)
        return taken

    async def size(self, name: str) -> int:
        """Count the messages of a queue that no consumer holds."""
        queue = await self._channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0

    async def all_delivered(self, name: str) -> bool:
        """Return whether consumers hold every message."""
        return await self.size(name) == 0

    async def dead(self, name: str) -> list[AbstractIncomingMessage]:
        """Take what lies in the dead queue of a queue."""
        return await self.take_all(topology.dead(name))

    async def delete(self, name: str) -> None:
        """Delete a queue."""
        await self._channel.queue_delete(name)

    async def exists(self, name: str) -> bool:
        """Return whether the queue exists; it uses another channel, which a "no" closes."""
        async with await aio_pika.connect(self._url) as connection:
            try:
                await (await connection.channel()).get_queue(name)
            except ChannelNotFoundEntity:
                return False
        return True

    async def empty(self) -> None:
        """Empty all queues."""
        work = topology.WORK_QUEUES
        retry_queues = map(topology.retry, topology.RETRY_DELAYS_S)
        for name in (*retry_queues, *work, *map(topology.dead, work)):
            await (await self._channel.get_queue(name, ensure=False)).purge()


@dataclass(frozen=True)
class Letters:
    """The dead letters of a test; there are none at first."""

    db: asyncpg.Pool

    async def arrive(
        self,
        body: bytes,
        headers: dict[str, Any] | None = None,
        *,
        queue: str = topology.ORDERS_PLACE,
    ) -> list[NewLetter]:
        """Write a message down that died on a queue."""
        message = parser.read(queue, body, headers or {})
        return await dead_letters.arrive(self.db, [message])

    async def naming(self, *placements: Placement, **as_named: Any) -> DeadLetter:
        """Write a letter down that names grabs of a sale, with changes if any are given."""
        named = [placement._replace(**as_named) for placement in placements]
        entries = [[p.order_id, p.buyer_id, p.quantity] for p in named]
        first = named[0]
        body = messages.encode_place(first.sale_id, first.epoch, [], entries)
        (arrival,) = await self.arrive(body, {"x-reason": "test"})
        return await dead_letters.find(self.db, arrival.letter_id)

    async def all(self, meant: LetterFilter | None = None) -> list[DeadLetter]:
        """Return letters, oldest first."""
        return await dead_letters.page(self.db, meant or LetterFilter(state=None), limit=1000)

    async def states(self) -> list[str]:
        """Return the states of all letters."""
        return [letter.state for letter in await self.all()]

    async def close_all(self, state: str) -> None:
        """Close every letter."""
        async with self.db.acquire() as connection, connection.transaction():
            for letter in await self.all():
                await dead_letters.close(
                    connection, letter.letter_id, state=state, actor="test", reason=None
                )

    async def audited(self, action: str) -> list[dict[str, Any]]:
        """Return the audit rows of an action."""
        rows = await self.db.fetch("SELECT * FROM audit WHERE action = $1 ORDER BY at", action)
        return [{**row, "details": json.loads(row["details"])} for row in rows]


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
        return PlaceOrders(db, Timers(sales or SaleDirectory(db), kinds), publisher)

    return make


@pytest.fixture
def queue_role(settings: Settings, publisher: Publisher) -> Callable[..., QueueRole]:
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
