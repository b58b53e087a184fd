"""What a grab costs: by wrk and one gateway on a core of its own, in interleaved rounds.

    growth = await holders_growth(stack, gateway, sizes, rounds=5, seconds=3, bars=bars)
    growth.ratio, growth.cpu_ratio, growth.points

The cost is the time between two grabs, and the CPU time that gateway and Redis took for one, which
other work on the machine disturbs less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import NamedTuple

from rich.progress import Progress

from loadtest.bench import holders
from loadtest.bench.wrk import CONNECTIONS, grab_in
from loadtest.stack import BenchStack, Process, cpu_s_of
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

    def costs(self, name: str) -> list[float]:
        """Return one cost of all rounds, `time_us` for example."""
        return [getattr(round_, name) for round_ in self.rounds]

    def median(self, name: str) -> float:
        """Return the median of one cost."""
        return median(self.costs(name))


@dataclass(frozen=True, slots=True)
class Growth:
    """How the cost of a grab grows with one thing; points from few to many."""

    thing: str
    points: list[Point]

    @property
    def ratio(self) -> float:
        """The time of a grab at the most, by that at the fewest; medians of the rounds."""
        return self._ratio("time_us")

    @property
    def cpu_ratio(self) -> float:
        """The same of the CPU time of gateway and Redis."""
        return self._ratio("cpu_us")

    def _ratio(self, name: str) -> float:
        return self.points[-1].median(name) / self.points[0].median(name)

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
    sizes: Sequence[int],
    *,
    rounds: int,
    seconds: int,
    bars: Progress,
) -> Growth:
    """Measure grabs in sales that have so many holders when a round begins."""
    holders.check_memory(sum(sizes))
    bar = bars.add_task("filling", total=sum(sizes))
    made: list[tuple[int, list[Sale]]] = []
    try:
        async with holders.quick_filling(stack.redis):
            for size in sizes:
                made.append((size, [sale := await stack.open_sale()]))
                await holders.fill(stack.redis, sale, size, partial(bars.advance, bar))
        return await _measure("holders", stack, gateway, made, rounds, seconds, bars)
    finally:
        async with holders.quick_filling(stack.redis):
            for _, (sale,) in made:
                await holders.take_out_all(stack.redis, sale)


async def sales_growth(
    stack: BenchStack,
    gateway: Process,
    counts: Sequence[int],
    *,
    rounds: int,
    seconds: int,
    bars: Progress,
) -> Growth:
    """Measure grabs that are spread over so many sales."""
    bar = bars.add_task("opening sales", total=sum(counts))
    made: list[tuple[int, list[Sale]]] = [(count, []) for count in counts]
    for count, sales in made:
        for _ in range(count):
            sales.append(await stack.open_sale())
            bars.advance(bar)
    return await _measure("sales", stack, gateway, made, rounds, seconds, bars)


async def _measure(
    thing: str,
    stack: BenchStack,
    gateway: Process,
    made: list[tuple[int, list[Sale]]],
    rounds: int,
    seconds: int,
    bars: Progress,
) -> Growth:
    points = [Point(size) for size, _ in made]
    bar = bars.add_task(f"measuring by {thing}", total=rounds * len(points))
    await _round(stack, gateway, made[0][1], 1)  # whatever is slow the first time
    for _ in range(rounds):
        for point, (_, sales) in zip(points, made, strict=True):
            point.rounds.append(await _round(stack, gateway, sales, seconds))
            bars.advance(bar)
    return Growth(thing, points)


async def _round(stack: BenchStack, gateway: Process, sales: Sequence[Sale], seconds: int) -> Round:
    """Grab for so long, and leave the sales as they were."""
    redis_pid = stack.services.pid("redis")
    if redis_pid is None:
        raise UserMistake("growth needs a Redis of its own; unset SECKILL_REDIS_URL")
    held = await _held(stack, sales)
    before = gateway.cpu_s(), cpu_s_of(redis_pid)
    grabbed = await grab_in(stack, gateway.url, sales, seconds)
    after = gateway.cpu_s(), cpu_s_of(redis_pid)
    await _quiet(stack, sales)
    # Some grabs were in flight in the end, and wrk does not count them.
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
