"""The sides of `make bench` that grab: each is something that can be run again and again.

The process under test has a core to itself, and stores and generator share the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from loadtest.bench.peers.servers import HELLO, NGINX, Peer, running
from loadtest.bench.wrk import grabs_per_second, pages_per_second, refusals_per_second
from loadtest.crowd.offer import offer_grabs
from loadtest.crowd.schedule import Schedule
from loadtest.stack import OTHER_CORE, TESTED_CORE, BenchStack, Process
from ops.processes.ports import free_port
from seckill.errors import SeckillError
from seckill.sales.sales import Sale


@dataclass(slots=True)
class Side:
    """Something measured again and again: per second, if its name has no unit."""

    name: str
    #: Not called where the figures are there already.
    measure: Callable[[], Awaitable[float]] | None = None
    #: Whose CPU time is measured with it.
    processes: list[Process] = field(default_factory=list)
    figures: list[float] = field(default_factory=list)
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

    @property
    def median_per_cpu(self) -> float:
        """The middle of the runs, each by the share of a core that was taken."""
        return statistics.median(
            figure / busy for figure, busy in zip(self.figures, self.busy, strict=True)
        )

    def _cpu_s(self) -> float:
        return sum(process.cpu_s() for process in self.processes)


@asynccontextmanager
async def one_core_sides(
    stack: BenchStack, seconds: int, left_out: Callable[[str], None]
) -> AsyncIterator[dict[str, Side]]:
    """Servers that have a core to themselves, one of them at work at a time."""
    ours = await stack.gateway()
    # As many connections as the pool has: a call waits for nothing but its turn.
    one_by_one = {"SECKILL_GRAB_BATCH_MAX": "1", "SECKILL_GRAB_CALLS_IN_FLIGHT": "16"}
    single = await stack.gateway(**one_by_one)
    sold_out = await stack.open_sale(units=1)
    await sell_out(stack, ours.url, sold_out)

    def won(server: Process) -> Callable[[], Awaitable[float]]:
        return partial(grabs_per_second, stack, server.url, seconds)

    def refused(url: str) -> Callable[[], Awaitable[float]]:
        return partial(refusals_per_second, stack, url, sold_out, seconds)

    async with AsyncExitStack() as peers:

        async def start(peer: Peer) -> Process | None:
            if line := peer.missing():
                left_out(line)
                return None
            server = running(peer, stack.home, stack.services.redis_url, TESTED_CORE)
            return await peers.enter_async_context(server)

        sides = {
            "win": Side("gateway, won", won(ours), [ours]),
            "unbatched": Side("gateway, one EVALSHA a grab", won(single), [single]),
            "sold_out": Side("gateway, sold out", refused(ours.url), [ours]),
        }
        if nginx := await start(NGINX):
            constant = refused(f"{nginx.url}/constant")
            sides["nginx"] = Side("nginx + Lua, script", won(nginx), [nginx])
            sides["constant"] = Side("nginx + Lua, constant", constant, [nginx])
        if hello := await start(HELLO):
            page = partial(pages_per_second, hello.url, seconds)
            sides["hello"] = Side("bare aiohttp hello", page, [hello])
        yield sides


async def two_process_sides(stack: BenchStack, seconds: int) -> dict[str, Side]:
    """Grabs for each second of CPU time that one gateway takes, and that each of two takes.

    The generator and the stores share the cores with them; so their share is taken out. The second
    of two has no core without them: a side of its own shows what that costs.
    """
    one = [await stack.gateway()]
    port = free_port()
    two = [await stack.gateway(core=core, port=port) for core in (TESTED_CORE, OTHER_CORE)]

    async def per_core(processes: list[Process], counted: list[Process]) -> float:
        won_before, cpu_before = await _won_and_cpu_s(counted)
        await grabs_per_second(stack, processes[0].url, seconds)
        won, cpu = await _won_and_cpu_s(counted)
        return len(processes) * (won - won_before) / (cpu - cpu_before)

    def side(name: str, processes: list[Process], counted: list[Process]) -> Side:
        return Side(name, partial(per_core, processes, counted), processes)

    return {
        "one": side("one gateway, on a core of its own", one, one),
        "two": side("two gateways, by the one that has a core of its own", two, two[:1]),
        "both": side("two gateways, by both", two, two),
    }


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
    return won, sum(gateway.cpu_s() for gateway in gateways)


async def sell_out(stack: BenchStack, url: str, sale: Sale) -> None:
    """Sell the one unit, so that every later grab is refused."""
    schedule = Schedule(rate=10, seconds=1)
    report = await offer_grabs(stack, url, [sale], schedule, connections=1)
    if report.answers() != {202: 1, 409: 9}:
        raise SeckillError(f"one unit was sold, and grabs were answered {report.answers()}")
