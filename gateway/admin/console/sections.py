"""What the console reads, while it is watched: over links of its own, each part at its own pace.

A store that hangs holds up its own parts alone. They stay as they were, and `troubles` says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any

import asyncpg
from aiohttp import web
from redis.asyncio import Redis

from gateway.admin.console.invariants import SALES_MAX, InvariantLights
from gateway.admin.console.sale_rows import SaleRows
from gateway.app_keys import INSTALLATION_ID, SETTINGS
from seckill import audit
from seckill.adapters import postgres
from seckill.adapters import redis as redis_client
from seckill.adapters.failures import store_failure
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.rabbitmq import Broker
from seckill.currencies import digits_of
from seckill.dead_letters import causes, store
from seckill.health.backlogs import Backlogs
from seckill.inventory.reservations import Stock
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.registry import heartbeat, processes
from seckill.registry.processes import ProcessState
from seckill.tasks import end_tasks
from seckill.transactions import manual
from seckill.transactions.states import TransactionState

#: Between two readings of what changes each second, and of what an operator looks at now and then.
OFTEN_S, SELDOM_S = 1.0, 3.0
#: Rows of a list: what a person looks through.
LISTED_MAX = 50
#: By then it is known which sales there are, and how fast every gateway sells: each has reported
#: twice (`heartbeat.EVERY_S`).
KNOWN_S = 2 * heartbeat.EVERY_S + OFTEN_S
#: Grabs a second from which on no invariants are counted: PostgreSQL's time is the buyers' then.
#: In a rush of so many seconds they are counted all the same.
RUSH_PER_S, RUSH_MAX_S = 200.0, 600.0
#: Connections to PostgreSQL, for the lists and for the sales: beside those that buyers need.
CONNECTIONS = 2


class Sections:
    """The parts of a snapshot, by name, as they were read last."""

    def __init__(
        self, edge: web.Application, lights: InvariantLights, grabs_per_s: Callable[[], float]
    ) -> None:
        self._edge, self._lights, self._grabs_per_s = edge, lights, grabs_per_s
        self.parts: dict[str, Any] = {}
        #: Part -> why it could not be read.
        self.troubles: dict[str, str] = {}
        self.sales = SaleRows()
        self.states: list[ProcessState] = []

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read on inside the block."""
        async with AsyncExitStack() as stack:
            self.parts.clear()  # what was read an hour ago would look like now
            self.troubles.clear()
            self.states = []
            redis, db, backlogs = await self._open(stack)
            tasks = [
                self._each("processes", OFTEN_S, lambda: self._read_processes(redis)),
                self._each("units", OFTEN_S, lambda: self.sales.read_left(Stock(redis))),
                self._each("sales", OFTEN_S, lambda: self._read_sales(db)),
                self._each("lists", SELDOM_S, lambda: self._read_lists(db)),
                self._each("queues", SELDOM_S, lambda: self._read_queues(backlogs)),
                self._count_on(),
            ]
            running = [asyncio.create_task(each, name="console") for each in tasks]
            try:
                yield
            finally:
                await end_tasks(*running)

    async def _open(self, stack: AsyncExitStack) -> tuple[Redis, asyncpg.Pool, Backlogs]:
        """Open links of the console's own; any store may be unavailable."""
        settings, own_id = self._edge[SETTINGS], self._edge[INSTALLATION_ID]
        redis = redis_client.connect(
            settings.redis_url, timeout_s=settings.redis_timeout_s, installation_id=own_id
        )
        stack.push_async_callback(redis.aclose)
        db = await stack.enter_async_context(
            postgres.connect(
                settings.postgres_dsn,
                size=CONNECTIONS,
                timeout_s=settings.postgres_timeout_s,
                at_once=False,
            )
        )
        broker = Broker(settings.amqp_url, "seckill-console", settings.confirm_timeout_s, own_id)
        backlogs = Backlogs(redis, db, broker)
        stack.push_async_callback(backlogs.close)
        return redis, db, backlogs

    async def _each(self, name: str, every_s: float, read: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await read()
                self.troubles.pop(name, None)
            except Exception as error:
                failure = store_failure(error)
                if failure is None:
                    raise
                self.troubles[name] = str(failure)
            await asyncio.sleep(every_s)

    async def _read_processes(self, redis: Redis) -> None:
        self.states = await processes.read(redis)

    async def _read_sales(self, db: asyncpg.Pool) -> None:
        await self.sales.read_sales(db)
        await self.sales.read_sold(db)

    async def _read_lists(self, db: asyncpg.Pool) -> None:
        payments = CardPaymentStore(db)
        with database_errors_as_unavailable():
            self.parts["dead"] = {
                "open": await store.open_by_queue(db),
                "groups": [asdict(each) for each in await causes.groups(db)],
            }
            parked = await manual.list_(db, [TransactionState.FAILED], LISTED_MAX)
            self.parts["parked"] = [asdict(each) for each in parked]
            unknown = await payments.unknown()
            # Ages are cut to ten seconds, so that an unchanged list is not sent again each second.
            self.parts["cards"] = {
                "payments": unknown.payments,
                "oldest_s": unknown.oldest_s // 10 * 10,
                "list": [
                    each._replace(age_s=each.age_s // 10 * 10)._asdict()
                    | {"digits": digits_of(each.currency)}
                    for each in await payments.open_payments(LISTED_MAX)
                ],
            }
            rows = await audit.newest(db, LISTED_MAX)
            self.parts["audit"] = [row._asdict() for row in rows]

    async def _read_queues(self, backlogs: Backlogs) -> None:
        self.parts["queues"] = [
            {"role": role, **asdict(backlog)} for role, backlog in (await backlogs.read()).items()
        ]

    async def _count_on(self) -> None:
        """Count the sales that moved last, then other live ones; rest long in between."""
        await asyncio.sleep(KNOWN_S)
        while True:
            await self._until_calm()
            rest_s = await self._lights.count(self._to_count())
            self.parts["invariants"] = self._lights.shown()
            await asyncio.sleep(rest_s)

    async def _until_calm(self) -> None:
        """Wait while many buyers press, but not for ever; the lights say so meanwhile."""
        until = time.monotonic() + RUSH_MAX_S
        while self._grabs_per_s() > RUSH_PER_S and time.monotonic() < until:
            waits = f"not counted while more than {RUSH_PER_S:g} grabs a second come"
            self.parts["invariants"] = {**self._lights.shown(), "trouble": waits}
            await asyncio.sleep(OFTEN_S)

    def _to_count(self) -> list[str]:
        chosen = dict.fromkeys((*self.sales.moving(), *self.sales.running()))
        return list(chosen)[:SALES_MAX]
