"""What `make bench` measures: each side of its table, as something that can be run again and again.

On pinned stores the process under test has a core to itself, and stores and generator share the
other. On free ones all of them share both.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from loadtest.bench.peers.servers import HELLO, NGINX, Peer, running
from loadtest.bench.wrk import get, grab_in, grabs_per_second, press_in_vain
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.schedule import Schedule, offer_grabs
from loadtest.stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, BenchStack, Process
from ops.processes.ports import free_port
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

#: Grabs in one message of the full queue: what a gateway makes of 256 busy connections.
MESSAGE_GRABS = 50
MERGED_ORDERS = 60_000
SINGLE_ORDERS = 3_000
#: Longest wait for the last orders of a run.
LANDED_S = 60.0
#: Runs that do not count, because the generator did not keep up, are repeated up to so many.
OFFERS_MAX = 3
#: Time between two looks at how many have landed: each costs what an order costs.
LOOK_S = 0.05
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Side:
    """Something measured again and again: per second, if its name does not say otherwise."""

    name: str
    measure: Callable[[], Awaitable[float]]
    figures: list[float] = field(default_factory=list)
    #: Whose CPU time is told with it.
    processes: list[Process] = field(default_factory=list)
    #: Share of a core that they took in each run.
    busy: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Measure once more."""
        before, began = self._cpu_s(), time.monotonic()
        self.figures.append(await self.measure())
        if self.processes:
            self.busy.append((self._cpu_s() - before) / (time.monotonic() - began))

    @property
    def median(self) -> float:
        """The middle of the runs."""
        return statistics.median(self.figures)

    def _cpu_s(self) -> float:
        return sum(cpu_s(process) for process in self.processes)


def cpu_s(process: Process) -> float:
    """Return the CPU time that a process has taken, in seconds."""
    fields = Path(f"/proc/{process.child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


@asynccontextmanager
async def one_core_sides(
    stack: BenchStack, seconds: int, left_out: Callable[[str], None]
) -> AsyncIterator[dict[str, Side]]:
    """Servers that have a core to themselves, one of them at work at a time."""
    async with AsyncExitStack() as peers:
        sides: dict[str, Side] = {}

        def add(key: str, name: str, measure: Callable[[], Awaitable[float]], *of: Process) -> None:
            sides[key] = Side(name, measure, processes=list(of))

        async def start(peer: Peer) -> Process | None:
            if line := peer.missing():
                left_out(line)
                return None
            peer_of = running(peer, stack.home, stack.services.redis_url, TESTED_CORE)
            return await peers.enter_async_context(peer_of)

        ours = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
        unbatched = await stack.run(
            "gateway",
            TESTED_CORE,
            SECKILL_GRAB_BATCH_MAX="1",
            # As many connections as the pool has: a call waits for nothing but its turn.
            SECKILL_GRAB_CALLS_IN_FLIGHT="16",
            **NO_SHEDDING,
        )
        add("win", "gateway, won", lambda: grabs_per_second(stack, ours.url, seconds), ours)
        add(
            "unbatched",
            "gateway, one EVALSHA a grab",
            lambda: grabs_per_second(stack, unbatched.url, seconds),
            unbatched,
        )
        sold_out = await stack.open_sale(units=1)
        await _sell_out(stack, ours, sold_out)
        add(
            "sold_out",
            "gateway, sold out",
            lambda: _in_vain(stack, ours.url, sold_out, seconds),
            ours,
        )
        if nginx := await start(NGINX):
            constant = f"{nginx.url}/constant"
            add("nginx", "nginx + Lua, script", lambda: _peer(stack, nginx, seconds), nginx)
            add(
                "constant",
                "nginx + Lua, constant",
                lambda: _in_vain(stack, constant, sold_out, seconds),
                nginx,
            )
        if hello := await start(HELLO):
            add("hello", "bare aiohttp hello", lambda: _hello(hello, seconds), hello)
        yield sides


async def two_process_sides(stack: BenchStack, seconds: int) -> dict[str, Side]:
    """Grabs for each second of CPU time that one gateway takes, and that each of two takes.

    The generator and the stores share the cores with them; so their share is taken out. The second
    of two has no core without them: what that costs it is told by a side of its own.
    """
    one = [await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)]
    port = free_port()
    two = [
        await stack.run("gateway", core, port=port, **NO_SHEDDING)
        for core in (TESTED_CORE, OTHER_CORE)
    ]

    async def per_core(processes: list[Process], counted: list[Process]) -> float:
        won_before, cpu_before = await _won_and_cpu_s(counted)
        sale = await stack.open_sale()
        await grab_in(stack, processes[0].url, [sale], seconds)
        await stack.drop_queue()
        won, cpu = await _won_and_cpu_s(counted)
        return len(processes) * (won - won_before) / (cpu - cpu_before)

    def side(name: str, processes: list[Process], counted: list[Process]) -> Side:
        return Side(name, lambda: per_core(processes, counted), processes=processes)

    return {
        "one": side("one gateway, on a core of its own", one, one),
        "two": side("two gateways, by the one that has a core of its own", two, two[:1]),
        "both": side("two gateways, by both", two, two),
    }


async def order_sides(stack: BenchStack, seconds: int) -> dict[str, Side]:
    """Orders that land in PostgreSQL."""
    gateway = await stack.run("gateway", None, **NO_SHEDDING)

    async def all_the_way() -> float:
        consumer = await stack.run("consumers", None)
        try:
            return await _grabbed_and_landed(stack, gateway, seconds)
        finally:
            await consumer.child.stop()

    return {
        "orders": Side("orders, all the way", all_the_way),
        "merged": Side("orders, one consumer, merged", lambda: _placed(stack, merged=True)),
        "single": Side("orders, one by one", lambda: _placed(stack, merged=False)),
    }


async def p99_side(stack: BenchStack, rate: float, seconds: int) -> Side:
    """Measure the p99 of grabs that come at this rate, whatever becomes of them."""
    port = free_port()
    gateway = await stack.run("gateway", None, port=port)
    await stack.run("consumers", None)

    async def offered() -> tuple[Sale, CrowdReport]:
        for _ in range(OFFERS_MAX):
            sale = await stack.open_sale()
            schedule = Schedule(rate=rate, seconds=seconds)
            report = await offer_grabs(stack, gateway.url, [sale], schedule)
            if report.valid:
                return sale, report
        raise SeckillError(f"the open-loop generator did not keep up in {OFFERS_MAX} runs")

    async def p99() -> float:
        sale, report = await offered()
        books = await stack.verify(sale, wait_s=LANDED_S)
        if not books.balanced:
            raise SeckillError(f"the ledger does not balance: {'; '.join(books.violations)}")
        # Who was refused waits for ever: refusing the slowest must not make it better.
        refused = 1 - report.told[202] / report.told.total()
        return inf if refused >= 0.01 else report.latency_ms(0.99 / (1 - refused), 202)

    return Side(f"p99 at {rate:,.0f} grabs/s, ms", p99)


async def _won_and_cpu_s(gateways: Sequence[Process]) -> tuple[float, float]:
    """Return the grabs that gateways have accepted, and the CPU time that they have taken."""
    won = 0.0
    for gateway in gateways:
        async with ClientSession() as http, http.get(f"{gateway.admin_url}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        samples = (sample for family in families for sample in family.samples)
        won += sum(
            sample.value
            for sample in samples
            if sample.name == "seckill_grabs_total" and sample.labels["verdict"] == "accepted"
        )
    return won, sum(map(cpu_s, gateways))


async def _peer(stack: BenchStack, peer: Process, seconds: int) -> float:
    return (await grab_in(stack, peer.url, [await stack.open_sale()], seconds)).per_s


async def _hello(hello: Process, seconds: int) -> float:
    return (await get(hello.url, seconds)).per_s


async def _in_vain(stack: BenchStack, url: str, sale: Sale, seconds: int) -> float:
    return (await press_in_vain(stack, url, sale, seconds)).per_s


async def _sell_out(stack: BenchStack, gateway: Process, sale: Sale) -> None:
    """Sell the one unit, so that everybody after is told so."""
    schedule = Schedule(rate=10, seconds=1)
    report = await offer_grabs(stack, gateway.url, [sale], schedule, connections=1)
    if report.told != {202: 1, 409: 9}:
        raise SeckillError(f"one unit was sold, and grabs were told {report.told}")


async def _placed(stack: BenchStack, *, merged: bool) -> float:
    """Let one consumer find a full queue."""
    count = MERGED_ORDERS if merged else SINGLE_ORDERS
    sale = await stack.open_sale()
    await stack.fill_queue(sale, count, MESSAGE_GRABS if merged else 1)
    overrides = {} if merged else {"SECKILL_PLACE_BATCH_MAX": "1"}
    consumer = await stack.run("consumers", None, **overrides)
    try:
        return await stack.rate_of_placing(sale, count)
    finally:
        await consumer.child.stop()
        await stack.drop_queue()


async def _grabbed_and_landed(stack: BenchStack, gateway: Process, seconds: int) -> float:
    """Grab for so long; return the orders a second from the first row to the last."""
    sale = await stack.open_sale()
    grabbing = asyncio.create_task(grab_in(stack, gateway.url, [sale], seconds, cores=None))
    first_at, landed, landed_at = 0.0, 0, time.monotonic()
    # wrk stops with grabs under way, and does not count them; Redis does.
    while not grabbing.done() or landed < await stack.holders(sale):
        before, landed, now = landed, await stack.frozen(sale), time.monotonic()
        if landed and not first_at:
            first_at = now
        if landed > before:
            landed_at = now
        if grabbing.done() and now > landed_at + LANDED_S:
            raise SeckillError(f"only {landed:,} of {await stack.holders(sale):,} orders landed")
        await asyncio.sleep(LOOK_S)
    await grabbing  # which may have failed
    return landed / (landed_at - first_at)
