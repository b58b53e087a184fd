"""What a grab costs: by wrk and one gateway on a core of its own, in interleaved rounds.

    growth = await holders_growth(stack, await stack.run("gateway", TESTED_CORE, **NO_SHEDDING))
    growth.ratio, growth.cpu_ratio, growth.points

The cost is the time between two grabs, and the CPU time that gateway and Redis took for one, which
other work on the machine disturbs less.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.progress import Progress

from loadtest.bench import holders
from loadtest.bench.wrk import CONNECTIONS, grab_in
from loadtest.stack import BenchStack, Process
from seckill.adapters import redis_keys
from seckill.errors import UserMistake
from seckill.sales.sales import Sale

#: What is compared: few holders, and enough to be out of every cache of the processor.
FEW, MANY = 10_000, 10_000_000
#: What was sent when wrk stopped is carried out soon after.
QUIET_S = 5.0


class Round(NamedTuple):
    """What a grab cost in one round, in microseconds."""

    grabs: int
    time_us: float
    gateway_cpu_us: float
    redis_cpu_us: float

    @property
    def cpu_us(self) -> float:
        """The CPU time of both."""
        return self.gateway_cpu_us + self.redis_cpu_us


@dataclass(slots=True)
class Point:
    """So many holders or sales, and the rounds with them."""

    size: int
    rounds: list[Round] = field(default_factory=list)

    @property
    def time_us(self) -> float:
        """The time between two grabs, median of the rounds; so are the others."""
        return median(round_.time_us for round_ in self.rounds)

    @property
    def gateway_cpu_us(self) -> float:
        """What the gateway took for a grab."""
        return median(round_.gateway_cpu_us for round_ in self.rounds)

    @property
    def redis_cpu_us(self) -> float:
        """What Redis took for a grab."""
        return median(round_.redis_cpu_us for round_ in self.rounds)

    @property
    def cpu_us(self) -> float:
        """What both took."""
        return median(round_.cpu_us for round_ in self.rounds)


@dataclass(frozen=True, slots=True)
class Growth:
    """How the cost of a grab grows with one thing; points from few to many."""

    thing: str
    points: list[Point]

    @property
    def ratio(self) -> float:
        """The time of a grab at the most, by that at the fewest; medians of the rounds."""
        return self.points[-1].time_us / self.points[0].time_us

    @property
    def cpu_ratio(self) -> float:
        """The same of the CPU time of gateway and Redis."""
        return self.points[-1].cpu_us / self.points[0].cpu_us

    def since(self, size: int) -> Growth:
        """Return the part from a size on."""
        return Growth(self.thing, [point for point in self.points if point.size >= size])

    def plain(self) -> list[dict[str, object]]:
        """Return it for JSON."""
        return [
            {"size": point.size, "rounds": [round_._asdict() for round_ in point.rounds]}
            for point in self.points
        ]


async def holders_growth(
    stack: BenchStack,
    gateway: Process,
    sizes: Sequence[int] = (FEW, MANY),
    *,
    rounds: int = 5,
    seconds: int = 3,
    progress: Progress | None = None,
) -> Growth:
    """Measure grabs in sales that have so many holders when a round begins."""
    holders.check_memory(sum(sizes))
    bar = _Bar(progress, "filling", sum(sizes))
    made: list[tuple[int, list[Sale]]] = []
    try:
        async with holders.quick_filling(stack.redis):
            for size in sizes:
                sale = await stack.open_sale()
                made.append((size, [sale]))
                await holders.fill(stack.redis, sale, size, bar.advance)
        return await _measure("holders", stack, gateway, made, rounds, seconds, progress)
    finally:
        async with holders.quick_filling(stack.redis):
            for _, (sale,) in made:
                await holders.take_out_all(stack.redis, sale)


async def sales_growth(
    stack: BenchStack,
    gateway: Process,
    counts: Sequence[int],
    *,
    rounds: int = 5,
    seconds: int = 3,
    progress: Progress | None = None,
) -> Growth:
    """Measure grabs that are spread over so many sales."""
    bar = _Bar(progress, "opening sales", sum(counts))
    made: list[tuple[int, list[Sale]]] = []
    for count in counts:
        made.append((count, []))
        for _ in range(count):
            made[-1][1].append(await stack.open_sale())
            bar.advance(1)
    return await _measure("sales", stack, gateway, made, rounds, seconds, progress)


async def _measure(
    thing: str,
    stack: BenchStack,
    gateway: Process,
    made: list[tuple[int, list[Sale]]],
    rounds: int,
    seconds: int,
    progress: Progress | None,
) -> Growth:
    points = [Point(size) for size, _ in made]
    bar = _Bar(progress, f"measuring by {thing}", rounds * len(points))
    await _round(stack, gateway, made[0][1], 1)  # whatever is slow the first time
    for _ in range(rounds):
        for point, (_, sales) in zip(points, made, strict=True):
            point.rounds.append(await _round(stack, gateway, sales, seconds))
            bar.advance(1)
    return Growth(thing, points)


async def _round(stack: BenchStack, gateway: Process, sales: Sequence[Sale], seconds: int) -> Round:
    """Grab for so long, and leave the sales as they were."""
    pids = _pid(gateway.child.pid), _pid(stack.services.pid("redis"))
    held = await _held(stack, sales)
    before = [_cpu_s(pid) for pid in pids]
    grabbed = await grab_in(stack, gateway.url, sales, seconds)
    after = [_cpu_s(pid) for pid in pids]
    await _quiet(stack, sales)
    # Some grabs were under way in the end, and wrk does not count them.
    await holders.take_out(stack.redis, sales, grabbed.grabs + 2 * CONNECTIONS)
    if await _held(stack, sales) != held:
        raise AssertionError("bug: a round left holders behind")
    await stack.drop_queue()
    gateway_us, redis_us = (
        1e6 * (end - begin) / grabbed.grabs for begin, end in zip(before, after, strict=True)
    )
    return Round(grabbed.grabs, 1e6 / grabbed.per_s, gateway_us, redis_us)


async def _held(stack: BenchStack, sales: Sequence[Sale]) -> int:
    async with stack.redis.pipeline(transaction=False) as pipe:
        for sale in sales:
            pipe.hlen(redis_keys.holders(sale.sale_id))
        return sum(await pipe.execute())


async def _quiet(stack: BenchStack, sales: Sequence[Sale]) -> None:
    """Wait until every accepted batch is confirmed and dropped from its outbox."""
    async with asyncio.timeout(QUIET_S):
        while True:
            async with stack.redis.pipeline(transaction=False) as pipe:
                for sale in sales:
                    pipe.xlen(redis_keys.outbox(sale.sale_id))
                if not any(await pipe.execute()):
                    return
            await asyncio.sleep(holders.LOOK_S)


def _pid(pid: int | None) -> int:
    if pid is None:
        raise UserMistake("growth needs a Redis of its own; unset SECKILL_REDIS_URL")
    return pid


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has taken, its ended children's not included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Bar:
    """A bar of a progress, if there is one."""

    def __init__(self, progress: Progress | None, text: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(text, total=total) if progress else None

    def advance(self, count: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)
