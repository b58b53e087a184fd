"""What load runs work on: private stores, and gateways and consumers, pinned to a core or free."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import asyncpg
from aio_pika.abc import AbstractChannel
from redis.asyncio import Redis

from config.settings import PROJECT_ROOT, given_home
from ops.processes.child import Child
from ops.processes.ports import free_port
from ops.processes.workers import worker
from ops.stack.credentials import Credentials, load_credentials
from ops.stack.services import Services, running_services, temporary_home
from seckill.adapters import migrations, postgres, topology
from seckill.adapters import redis as redis_client
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.auth import login_tokens, tickets
from seckill.auth.key_ring import KeyRing
from seckill.consistency import verify
from seckill.errors import SeckillError
from seckill.inventory.reservations import Stock
from seckill.sales import rate_limits, sales
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale
from seckill.sales.token_buckets import TokenBuckets

#: The home of load runs. Its stores stay; each run opens sales of its own.
HOME = given_home() / "bench"
#: The process under test has this core to itself; stores and generator share the other.
TESTED_CORE, OTHER_CORE = 0, 1
#: A closed loop makes its own waits: the slower side must answer all of its requests, too.
NO_SHEDDING = {"SECKILL_WAIT_MAX_S": "60", "SECKILL_REQUESTS_IN_HAND_MAX": "10000"}
#: What may be pinned to: a core, some of them, or None for all.
Cores = int | Collection[int] | None
#: More than any run takes.
UNITS = 2_000_000_000
#: Longest wait for anything that should take seconds.
PATIENCE_S = 120.0
#: A ticket or a login outlives any run.
VALID_S = 3600


@dataclass(frozen=True, slots=True)
class Process:
    """A process under test."""

    child: Child
    url: str
    #: Where a process of ours serves its metrics.
    admin_url: str = ""

    def cpu_s(self) -> float:
        """Return the CPU time that it has taken, in seconds."""
        return cpu_s_of(self.child.pid or 0)


def cpu_s_of(pid: int) -> float:
    """Return the CPU seconds that a process has taken, without those of its children."""
    return sum(map(int, _stat_of(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def cpu_s_of_trees(roots: Iterable[int]) -> float:
    """Return the CPU seconds of processes and all that they have started, ended ones included."""
    ticks, wanted, parents = 0, set(roots), dict[int, int]()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            parents[int(path.name)] = int(_stat_of(int(path.name))[1])
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] not in wanted:
            line.append(parents[line[-1]])
        if line[-1] in wanted:
            with suppress(FileNotFoundError, ProcessLookupError):
                ticks += sum(map(int, _stat_of(pid)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name (man proc_pid_stat)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def require_two_cores() -> None:
    """Raise SystemExit where the process under test cannot have a core of its own."""
    if len(os.sched_getaffinity(0)) <= OTHER_CORE:
        raise SystemExit("loadtest: two cores are needed, one for the process under test")


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


@dataclass(slots=True)
class BenchStack:
    """The stores of a run, and the processes that it has started."""

    home: Path
    services: Services
    credentials: Credentials
    db: asyncpg.Pool
    redis: Redis
    channel: AbstractChannel
    publisher: Publisher
    children: list[Child] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _started: int = field(default_factory=lambda: int(time.time()))

    @property
    def environment(self) -> dict[str, str]:
        """The settings of each process, but for its ports."""
        return {
            "SECKILL_HOME": str(self.home),
            "SECKILL_LOG_FORMAT": "text",  # a drill reads times off it
            "SECKILL_REDIS_URL": self.services.redis_url,
            "SECKILL_AMQP_URL": self.services.amqp_url,
            "SECKILL_POSTGRES_DSN": self.services.postgres_dsn,
            "SECKILL_TICKET_KEYS": self.credentials.ticket_keys,
            "SECKILL_JWT_KEYS": self.credentials.jwt_keys,
            "SECKILL_WEBHOOK_KEYS": self.credentials.webhook_keys,
            "SECKILL_SHOP_KEYS": self.credentials.shop_keys,
        }

    async def run(
        self,
        command: str,
        core: Cores = None,
        *,
        port: int | None = None,
        checkout: Path = PROJECT_ROOT,
        **overrides: str,
    ) -> Process:
        """Start `seckill <command>`, pinned if a core is given; gateways may share a port.

        Another checkout is that of another version, for the packages of this interpreter.
        """
        port, admin_port = port or free_port(), free_port()
        environment = self.environment | {
            "SECKILL_GATEWAY_PORT": str(port),
            "SECKILL_ADMIN_PORT": str(admin_port),
            **overrides,
        }
        child = worker(command, len(self.children) + 1, environment, home=self.home)
        child = Child(replace(child.spec, cwd=checkout), child.ready, child.before)
        self.children.append(child)
        with pinned(core):
            await child.start()
        return Process(child, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")

    async def gateway(
        self,
        *,
        consumers: int = 0,
        core: Cores = TESTED_CORE,
        port: int | None = None,
        **overrides: str,
    ) -> Process:
        """Start a gateway that sheds no load, and so many consumers on the other core."""
        gateway = await self.run("gateway", core, port=port, **NO_SHEDDING, **overrides)
        for _ in range(consumers):
            await self.run("consumers", OTHER_CORE)
        return gateway

    async def open_sale(
        self, *, units: int = UNITS, payment_window_s: int = 900, opens_at: datetime | None = None
    ) -> Sale:
        """Create and open a sale, by default one that cannot sell out."""
        sale_id = f"bench-{self._started}-{next(self._numbers)}"
        new = NewSale(sale_id, units, 1999, opens_at=opens_at, payment_window_s=payment_window_s)
        stock = Stock(self.redis)
        await sales.create(self.db, stock, new)
        return await sales.open_(self.db, stock, new.sale_id)

    async def limit(self, sale: Sale, rate: int) -> SaleLimit:
        """Limit the grabs of a sale."""
        limit = SaleLimit.of(rate)
        await rate_limits.set_limit(self.db, TokenBuckets(self.redis), sale.sale_id, "try", limit)
        return limit

    def key_ring(self, setting: str) -> KeyRing:
        """Return the keys of a setting, `ticket_keys` for example."""
        return KeyRing.parse(getattr(self.credentials, setting), setting=setting)

    def tickets(
        self, sales: Sequence[Sale], count: int, first: int = 0
    ) -> Iterator[tuple[Sale, str, str]]:
        """Make tickets for the buyers b0 (or another first), b1 and so on, for the sales in turn.

        No buyer is in two of these sales: gateways count what a buyer does in all of them.
        """
        ring = self.key_ring("ticket_keys")
        until = int(time.time()) + VALID_S
        for n, sale in enumerate(itertools.islice(itertools.cycle(sales), count), first):
            buyer, sale_id = f"b{n}", sale.sale_id
            ticket = tickets.issue(ring, sale_id=sale_id, buyer_id=buyer, expires_at_s=until)
            yield sale, buyer, ticket

    def login(self, buyer_id: str) -> dict[str, str]:
        """Make the headers of a buyer who is logged in."""
        ring, until = self.key_ring("jwt_keys"), int(time.time()) + VALID_S
        token = login_tokens.issue(ring, buyer_id=buyer_id, expires_at_s=until)
        return {"Authorization": f"Bearer {token}"}

    async def verify(self, sale: Sale, *, wait_s: float = PATIENCE_S) -> verify.Ledger:
        """Return the ledger of a sale once it is quiet."""
        return await verify.verify(self.redis, self.db, sale.sale_id, wait_s=wait_s)

    async def until(self, query: str, sale: Sale, complaint: str) -> None:
        """Return once a query about the sale ($1) is true; raise with the complaint if it stays."""
        deadline = time.monotonic() + PATIENCE_S
        while not await self.db.fetchval(query, sale.sale_id):
            if time.monotonic() > deadline:
                raise SeckillError(complaint)
            await asyncio.sleep(0.1)

    async def messages(self, queue: str) -> int:
        """Count the messages of a queue that no consumer holds."""
        found = await self.channel.declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0

    async def drop_queue(self) -> None:
        """Drop what lies in orders.place: the next run starts with an empty queue."""
        await (await self.channel.get_queue(topology.ORDERS_PLACE)).purge()

    async def versions(self) -> dict[str, str]:
        """Return the versions of the stores."""
        link = (await self.channel.get_underlay_channel()).connection
        rabbitmq = link.server_properties["version"]
        postgresql: str = await self.db.fetchval("SHOW server_version")
        return {
            "Redis": (await self.redis.info("server"))["redis_version"],
            "RabbitMQ": rabbitmq.decode() if isinstance(rabbitmq, bytes) else str(rabbitmq),
            "PostgreSQL": postgresql.split()[0],  # the rest names the builder
        }


@asynccontextmanager
async def bench_stack(
    stores_core: Cores = None,
    *,
    home: Path = HOME,
    urls: Mapping[str, str] | None = None,
    migrate: Callable[[str], Awaitable[object]] = migrations.migrate,
) -> AsyncIterator[BenchStack]:
    """Start the stores, pinned if a core is given, and stop everything in the end.

    Those with an address in `urls`, by name, are there already. `migrate` makes the tables.
    """
    with ExitStack() as pinning:
        pinning.enter_context(pinned(stores_core))
        async with running_services(home, urls) as services:
            pinning.close()
            await migrate(services.postgres_dsn)
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
async def temporary_stack(stores_core: Cores = None) -> AsyncIterator[BenchStack]:
    """Start stores that are empty, and leave nothing of them."""
    with temporary_home() as home:
        async with bench_stack(stores_core, home=home) as stack:
            yield stack
