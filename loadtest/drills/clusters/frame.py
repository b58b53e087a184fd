"""The drill: grabs come at a steady rate while the leader of a store is broken and mended.

Each trouble comes several times, each time with a sale of its own, on which `verify` checks the
invariants afterwards. The same crowd without a trouble, on the cluster and on a single node, shows
what the cluster itself costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.console import Console

from loadtest.crowd.offer import offer, plan_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.schedule import Schedule
from loadtest.findings import Finding
from loadtest.stack import UNITS, BenchStack, Process, bench_stack, cpu_s_of_trees
from ops.processes.child import Child
from ops.stack.services import temporary_home
from seckill.adapters import postgres
from seckill.errors import SeckillError, Unavailable
from seckill.sales.sales import Sale

CONNECTIONS = 200
#: Before a trouble, and at the end of the load: everything works as always.
CALM_S = 4.0
#: Between two looks at how many orders are placed: how exact the time to recover is.
LOOK_S = 0.05
#: The product's own limit for a query: a look must not hang longer than its work does.
LOOK_TIMEOUT_S = 2.0
#: How often a trouble may come too late. A command that breaks a node can take 10 s on a busy
#: machine, and the crowd has left by then.
LATE_MAX = 5

#: Breaks the leader at the beginning of the block; at its end all nodes are well again.
Trouble = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A store of several nodes that runs."""

    #: `redis`, `rabbitmq` or `postgresql`.
    store: str
    #: The address that the product gets; it names all nodes.
    url: str
    #: All processes, for their CPU time.
    children: Sequence[Child]
    #: By name: `killed`, `frozen`, `cut off` and so on.
    troubles: Mapping[str, Trouble]
    #: Settings of the gateway.
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Finds the leader before the crowd comes, if that takes seconds.
    before: Callable[[], Awaitable[None]] | None = None
    #: What an operator does for a sale after a trouble; returns what it was, or nothing.
    after: Callable[[BenchStack, Sale], Awaitable[str]] | None = None


#: Starts a cluster with its data below a home, and stops it.
RunCluster = Callable[[Path], AbstractAsyncContextManager[Cluster]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a drill does."""

    times: int
    rate: int
    #: How long the leader stays broken.
    broken_s: float

    @property
    def seconds(self) -> float:
        """How long the crowd comes."""
        return CALM_S + self.broken_s + CALM_S


@dataclass(slots=True)
class TroubleFigures:
    """What runs with one trouble, or with none, came to."""

    #: Longest time without a newly placed order.
    stalls_s: list[float] = field(default_factory=list)
    #: Longest time without a 202.
    refused_s: list[float] = field(default_factory=list)
    shares_503: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    #: CPU time of all processes an order; a process that was killed takes its own along.
    costs_us: list[float] = field(default_factory=list)
    #: Orders that were answered 202, and have no row.
    lost: int = 0
    violations: list[str] = field(default_factory=list)
    #: What an operator had to do.
    mended: list[str] = field(default_factory=list)

    def finding(self, name: str, *, broken: bool) -> Finding:
        """Return the line for the table."""
        parts = [f"p99 {median(self.p99_ms):.1f} ms"]
        if broken:
            parts += [
                f"no order placed for {median(self.stalls_s):.1f} s (at most"
                f" {max(self.stalls_s):.1f})",
                f"no 202 for {median(self.refused_s):.1f} s (at most {max(self.refused_s):.1f})",
            ]
        else:
            parts.append(f"{median(self.costs_us):,.0f} us of CPU an order")
        parts += [
            f"503: {median(self.shares_503):.2%}",
            f"lost: {self.lost}",
            *([f"{len(self.mended)} times: {self.mended[-1]}"] if self.mended else []),
            "; ".join(self.violations) or "balanced",
        ]
        sold = all(self.p99_ms)  # it is 0 in a run without any 202, in which nothing can be lost
        well = sold and not self.lost and not self.violations
        promised = "some sold, lost: 0, balanced"
        return Finding(f"{len(self.p99_ms)} x {name}", ", ".join(parts), promised, well)


async def drill(run_cluster: RunCluster, plan: Plan, names: Sequence[str]) -> list[Finding]:
    """Play the troubles of these names (all, if there is none); return the table."""
    log = Console(stderr=True).print
    found: dict[str, TroubleFigures] = {}
    with temporary_home() as home:
        async with run_cluster(home) as cluster, shop(cluster, home / "stack") as (stack, gateway):
            children = [*cluster.children, *stack.services.children]
            troubles: dict[str, Trouble | None] = {"calm": None}
            troubles |= {name: cluster.troubles[name] for name in names or cluster.troubles}
            for name, trouble in troubles.items():
                figures = found[name] = TroubleFigures()
                play = partial(_play, stack, gateway, children, plan, trouble, figures, cluster)
                say = partial(log, cluster.store, name)
                await until_seen(plan.times if trouble else 1, play, say)
        single = TroubleFigures()
        async with shop(None, home / "single") as (stack, gateway):
            await _play(stack, gateway, stack.services.children, plan, None, single)
    return [
        single.finding("a single node", broken=False),
        *(
            figures.finding(f"{cluster.store} {name}", broken=name != "calm")
            for name, figures in found.items()
        ),
    ]


@asynccontextmanager
async def shop(cluster: Cluster | None, home: Path) -> AsyncIterator[tuple[BenchStack, Process]]:
    """Start the other stores, a gateway and two consumers."""
    home.mkdir(mode=0o755)  # noqa: ASYNC240 - nothing else runs yet
    urls = {cluster.store: cluster.url} if cluster else None
    async with bench_stack(home=home, urls=urls) as stack:
        gateway = await stack.run("gateway", **(cluster.settings if cluster else {}))
        for _ in range(2):
            await stack.run("consumers")
        yield stack, gateway


async def until_seen(
    times: int, play: Callable[[], Awaitable[bool]], log: Callable[[str], None]
) -> None:
    """Play until a crowd was there for at least half of a trouble, this many times."""
    seen = late = 0
    while seen < times:
        log(f"{seen + 1} of {times}")
        if await play():
            seen += 1
        elif (late := late + 1) > LATE_MAX:
            raise SeckillError(f"the trouble came after the crowd, {late} times")
        else:
            log("too late for the crowd; once more")


class Placements:
    """Notes when orders of a sale are placed."""

    def __init__(self, stack: BenchStack, sale: Sale) -> None:
        self._dsn, self._sale_id = stack.services.postgres_dsn, sale.sale_id
        #: By the monotonic clock, each look that found more than the one before it.
        self.moments: list[float] = []

    async def watch(self) -> None:
        """Look until cancelled."""
        placed = 0
        async with postgres.connect(
            self._dsn, size=1, timeout_s=LOOK_TIMEOUT_S, at_once=False
        ) as db:
            while True:
                with suppress(Unavailable), postgres.database_errors_as_unavailable():
                    query = "SELECT frozen FROM inventory WHERE sale_id = $1"
                    found = await db.fetchval(query, self._sale_id)
                    if found > placed:
                        placed = found
                        self.moments.append(time.monotonic())
                await asyncio.sleep(LOOK_S)


async def _play(
    stack: BenchStack,
    gateway: Process,
    children: Sequence[Child],
    plan: Plan,
    trouble: Trouble | None,
    figures: TroubleFigures,
    cluster: Cluster | None = None,
) -> bool:
    """Let a crowd come, with a trouble or without; add what it came to.

    Return whether the crowd was there for at least half of the trouble. If not, the times to
    recover say nothing, and only the ledger counts.
    """
    if trouble and cluster and cluster.before:
        await cluster.before()
    sale = await stack.open_sale(units=UNITS)
    requests = plan_grabs(stack, [sale], Schedule(rate=plan.rate, seconds=plan.seconds).due_times())
    pids = [child.pid for child in [*children, *stack.children] if child.pid]
    placements, before_s = Placements(stack, sale), cpu_s_of_trees(pids)
    watching = asyncio.create_task(placements.watch())

    async def come() -> tuple[CrowdReport, float]:
        sale_ids = [sale.sale_id]
        report = await offer(
            gateway.url, requests, plan.seconds, sale_ids=sale_ids, connections=CONNECTIONS
        )
        return report, time.monotonic()

    offered = asyncio.create_task(come())
    await asyncio.sleep(CALM_S)
    broken_at = mended_at = time.monotonic()
    if trouble:
        async with trouble():
            await asyncio.sleep(plan.broken_s)
            mended_at = time.monotonic()
    report, ended_at = await offered
    watching.cancel()
    await asyncio.wait({watching})
    after = cluster.after if trouble and cluster else None
    if after and (done := await after(stack, sale)):
        figures.mended.append(done)
    ledger = await stack.verify(sale)
    rows = "SELECT count(*) FROM orders WHERE sale_id = $1"
    won, placed = report.answered(202), await stack.db.fetchval(rows, sale.sale_id)
    figures.lost += max(0, len(won) - placed)
    figures.violations += ledger.violations
    if mended_at - plan.broken_s / 2 > ended_at:
        return False
    figures.costs_us.append((cpu_s_of_trees(pids) - before_s) / max(1, len(won)) * 1e6)
    figures.p99_ms.append(report.latency_ms(0.99, 202))
    figures.shares_503.append(len(report.answered(503)) / len(report.requests))
    figures.stalls_s.append(longest_gap(placements.moments, broken_at, ended_at))
    figures.refused_s.append(longest_gap((r.answered_s for r in won), 0.0, plan.seconds))
    return True


def longest_gap(moments: Iterable[float], begin: float, end: float) -> float:
    """Return the longest time between two moments after the beginning, or up to the end."""
    times = sorted(moment for moment in moments if begin < moment < end)
    return max(after - before for before, after in pairwise([begin, *times, end]))
