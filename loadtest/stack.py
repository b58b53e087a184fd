"""What the benchmarks run on: private services, and processes pinned to a core."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path

import asyncpg
from aio_pika.abc import AbstractChannel
from redis.asyncio import Redis

from ops.processes.child import Child
from ops.processes.ports import free_port
from ops.processes.workers import worker
from ops.stack.credentials import Credentials, load_credentials
from ops.stack.services import Services, running_services, temporary_home
from seckill import messages
from seckill.adapters import migrations, postgres, redis_keys, topology
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker, Publisher
from seckill.auth import login_tokens, tickets
from seckill.auth.key_ring import KeyRing
from seckill.consistency import verify as ledger
from seckill.errors import SeckillError
from seckill.inventory.reservations import Grab, Stock
from seckill.order_ids import new_order_id
from seckill.sales import rate_limits, sales
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.sales import NewSale, Sale
from seckill.sales.token_buckets import TokenBuckets

#: The process under test has this core to itself; stores and generator share the other.
TESTED_CORE, OTHER_CORE = 0, 1
#: A closed loop makes its own waits; the slower side must answer all it is given, too.
NO_SHEDDING = {"SECKILL_WAIT_MAX_S": "60", "SECKILL_REQUESTS_IN_HAND_MAX": "10000"}
#: What may be pinned to: a core, some of them, or None for all.
Cores = int | Collection[int] | None
#: More than any run takes.
UNITS = 2_000_000_000
#: A run that makes no progress for this long has failed.
PATIENCE_S = 60.0
#: Messages on their way to the broker while a queue is filled.
PUBLISHES_MAX = 50


@dataclass(frozen=True, slots=True)
class Process:
    """A process under test."""

    child: Child
    url: str
    #: Where a process of ours tells its metrics.
    admin_url: str = ""


@contextmanager
def pinned(cores: Cores) -> Iterator[None]:
    """Stay on these cores; what is started meanwhile stays there before it does anything."""
    everywhere = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, {cores} if isinstance(cores, int) else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


class BenchStack:
    """Stores on one core, and whatever is under test on another."""

    def __init__(
        self,
        home: Path,
        services: Services,
        credentials: Credentials,
        db: asyncpg.Pool,
        redis: Redis,
        channel: AbstractChannel,
        publisher: Publisher,
    ) -> None:
        self.home = home
        self.services = services
        self._credentials = credentials
        self.db = db
        self.redis = redis
        self._stock = Stock(redis)
        self._channel = channel
        self.publisher = publisher
        self._numbers = itertools.count(1)
        self._started = int(time.time())
        self.children: list[Child] = []

    async def run(
        self, command: str, core: Cores, *, port: int | None = None, **overrides: str
    ) -> Process:
        """Start `seckill <command>` and pin it; several gateways may share a port."""
        port, admin_port = port or free_port(), free_port()
        environment = {
            "SECKILL_HOME": str(self.home),
            "SECKILL_REDIS_URL": self.services.redis_url,
            "SECKILL_AMQP_URL": self.services.amqp_url,
            "SECKILL_POSTGRES_DSN": self.services.postgres_dsn,
            "SECKILL_TICKET_KEYS": self._credentials.ticket_keys,
            "SECKILL_JWT_KEYS": self._credentials.jwt_keys,
            "SECKILL_WEBHOOK_KEYS": self._credentials.webhook_keys,
            "SECKILL_GATEWAY_PORT": str(port),
            "SECKILL_ADMIN_PORT": str(admin_port),
            **overrides,
        }
        child = worker(command, len(self.children) + 1, environment, home=self.home)
        self.children.append(child)
        with pinned(core):
            await child.start()
        return Process(child, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")

    async def open_sale(
        self,
        *,
        units: int = UNITS,
        payment_window_s: int = 900,
        opens_at: datetime | None = None,
    ) -> Sale:
        """Make and open a sale, by default one that nobody can sell out."""
        sale_id = f"bench-{self._started}-{next(self._numbers)}"
        new = NewSale(sale_id, units, 1999, opens_at=opens_at, payment_window_s=payment_window_s)
        await sales.create(self.db, self._stock, new)
        return await sales.open_(self.db, self._stock, new.sale_id)

    def tickets(self, sale: Sale, count: int) -> Iterator[str]:
        """Make tickets for the buyers b0, b1 and so on."""
        return (ticket for _, _, ticket in self.tickets_in_turn([sale], count))

    def tickets_in_turn(
        self, sales: Sequence[Sale], count: int, first: int = 0
    ) -> Iterator[tuple[Sale, str, str]]:
        """Make tickets for the buyers b0 (or another first), b1 and so on, for the sales in turn.

        No buyer is in two sales: gateways count what a buyer does in all of them.
        """
        ring = KeyRing.parse(self._credentials.ticket_keys, setting="ticket_keys")
        expires = int(time.time()) + 3600
        for n, sale in enumerate(itertools.islice(itertools.cycle(sales), count)):
            buyer_id = f"b{first + n}"
            yield (
                sale,
                buyer_id,
                tickets.issue(ring, sale_id=sale.sale_id, buyer_id=buyer_id, expires_at_s=expires),
            )

    def login(self, buyer_id: str) -> dict[str, str]:
        """Make the headers of a buyer who is logged in."""
        ring = KeyRing.parse(self._credentials.jwt_keys, setting="jwt_keys")
        token = login_tokens.issue(ring, buyer_id=buyer_id, expires_at_s=int(time.time()) + 3600)
        return {"Authorization": f"Bearer {token}"}

    @property
    def jwt_keys(self) -> str:
        """What a shop signs logins with, as the setting has it."""
        return self._credentials.jwt_keys

    def webhook_keys(self) -> KeyRing:
        """Return what a card provider signs with."""
        return KeyRing.parse(self._credentials.webhook_keys, setting="webhook_keys")

    async def write_tickets(self, sales: Sequence[Sale], count: int, first: int = 0) -> Path:
        """Write a ticket file for wrk, of so many buyers who grab in these sales in turn.

        With one sale it is like those of `seckill ticket`; with more, a third column names them.
        """
        path = self.home / "tickets.tsv"
        with path.open("w") as file:
            for sale, buyer_id, ticket in self.tickets_in_turn(sales, count, first):
                named = f"\t{sale.sale_id}" if len(sales) > 1 else ""
                file.write(f"{buyer_id}\t{ticket}{named}\n")
        return path

    async def limit(self, sale: Sale, rate: int) -> SaleLimit:
        """Limit the grabs of a sale."""
        limit = SaleLimit.of(rate)
        await rate_limits.set_limit(self.db, TokenBuckets(self.redis), sale.sale_id, "try", limit)
        return limit

    async def verify(self, sale: Sale, *, wait_s: float) -> ledger.Ledger:
        """Count the ledger of a sale once it is quiet."""
        return await ledger.verify(self.redis, self.db, sale.sale_id, wait_s=wait_s)

    async def fill_queue(self, sale: Sale, count: int, grabs_a_message: int) -> None:
        """Publish `count` accepted grabs to orders.place."""
        numbers = iter(range(0, count, grabs_a_message))

        async def publish() -> None:
            for first in numbers:
                grabs = [
                    Grab(new_order_id(sale.number), f"b{n}", 1)
                    for n in range(first, first + grabs_a_message)
                ]
                body = messages.encode_place(sale.sale_id, sale.epoch, [], grabs)
                await self.publisher.publish(topology.ORDERS_PLACE, body)

        await asyncio.gather(*(publish() for _ in range(PUBLISHES_MAX)))

    async def rate_of_placing(self, sale: Sale, count: int) -> float:
        """Watch orders arrive until there are `count`; return orders a second since the first.

        Infinite when all of them were there already.
        """
        first_at, first, seen, seen_at = 0.0, 0, 0, time.monotonic()
        while True:
            frozen = await self.frozen(sale)
            now = time.monotonic()
            if frozen and not first:
                first, first_at = frozen, now
            if frozen >= count:
                return float((frozen - first) / (now - first_at)) if now > first_at else inf
            if frozen > seen:
                seen, seen_at = frozen, now
            if now - seen_at > PATIENCE_S:
                raise SeckillError(f"only {frozen} of {count} orders arrived")
            await asyncio.sleep(0.01)

    async def versions(self) -> dict[str, str]:
        """Return the versions of the stores."""
        link = (await self._channel.get_underlay_channel()).connection
        rabbitmq = link.server_properties["version"]
        postgresql: str = await self.db.fetchval("SHOW server_version")
        return {
            "Redis": (await self.redis.info("server"))["redis_version"],
            "RabbitMQ": rabbitmq.decode() if isinstance(rabbitmq, bytes) else str(rabbitmq),
            "PostgreSQL": postgresql.split()[0],  # the rest says who built it
        }

    async def holders(self, sale: Sale) -> int:
        """Count the buyers to whom Redis has given something."""
        return int(await self.redis.hlen(redis_keys.holders(sale.sale_id)))

    async def frozen(self, sale: Sale) -> int:
        """Count the units of orders that have landed in PostgreSQL and wait to be paid."""
        return int(
            await self.db.fetchval("SELECT frozen FROM inventory WHERE sale_id = $1", sale.sale_id)
        )

    async def messages(self, queue: str) -> int:
        """Count the messages of a queue that nobody holds."""
        found = await self._channel.declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0

    async def drop_queue(self) -> None:
        """Throw away what lies in the queue: the next run starts with an empty one."""
        await (await self._channel.get_queue(topology.ORDERS_PLACE)).purge()


@asynccontextmanager
async def bench_stack(home: Path, stores_core: Cores = None) -> AsyncIterator[BenchStack]:
    """Start the stores, pinned if a core is given, and stop everything in the end."""
    with ExitStack() as pinning:
        pinning.enter_context(pinned(stores_core))
        async with running_services(home) as services:
            pinning.close()
            await migrations.migrate(services.postgres_dsn)
            broker = Broker(services.amqp_url, "bench", 10)
            async with (
                postgres.connect(services.postgres_dsn, size=2, timeout_s=10) as db,
                broker.channel() as channel,
                Publisher.open(broker, timeout_s=30) as publisher,
            ):
                redis = redis_client.connect(services.redis_url, timeout_s=10)
                credentials = load_credentials(home)
                stack = BenchStack(home, services, credentials, db, redis, channel, publisher)
                try:
                    yield stack
                finally:
                    for child in stack.children:
                        await child.stop()
                    await redis.aclose()


@asynccontextmanager
async def thrown_away_stack(stores_core: Cores = None) -> AsyncIterator[BenchStack]:
    """Start stores that are empty, and leave nothing of them."""
    with temporary_home() as home:
        async with bench_stack(home, stores_core) as stack:
            yield stack
