"""What a grab costs: by wrk and one gateway on a core of its own, in interleaved rounds.

    growth = await GrabCosts(stack, gateway, rounds, seconds, bars).by_holders((FEW, MANY))
    growth.ratio, growth.cpu_ratio, growth.points

The cost is the time between two grabs, and the CPU time that gateway and Redis took for one, which
other work on the machine disturbs less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
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
    """How the cost of a grab grows with holders, or sales; points from few to many."""

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


@dataclass(frozen=True, slots=True)
class GrabCosts:
    """Measures what a grab costs, by wrk and one gateway on a core of its own."""

    stack: BenchStack
    gateway: Process
    rounds: int
    seconds: int
    bars: Progress

    async def by_holders(self, sizes: Sequence[int]) -> Growth:
        """Measure grabs in sales that have so many holders when a round begins."""
        holders.check_memory(sum(sizes))
        bar = self.bars.add_task("filling", total=sum(sizes))
        redis, made = self.stack.redis, [(size, [await self.stack.open_sale()]) for size in sizes]
        try:
            async with holders.quick_filling(redis):
                for size, (sale,) in made:
                    await holders.fill(redis, sale, size, partial(self.bars.advance, bar))
            return await self._measure("holders", made)
        finally:
            async with holders.quick_filling(redis):
                for _, (sale,) in made:
                    await holders.take_out_all(redis, sale)

    async def by_sales(self, counts: Sequence[int]) -> Growth:
        """Measure grabs that are spread over so many sales."""
        bar = self.bars.add_task("opening sales", total=sum(counts))
        made: list[tuple[int, list[Sale]]] = [(count, []) for count in counts]
        for count, sales in made:
            while len(sales) < count:
                sales.append(await self.stack.open_sale())
                self.bars.advance(bar)
        return await self._measure("sales", made)

    async def _measure(self, thing: str, made: Sequence[tuple[int, list[Sale]]]) -> Growth:
        points = [Point(size) for size, _ in made]
        bar = self.bars.add_task(f"measuring by {thing}", total=self.rounds * len(points))
        await self._round(made[0][1], 1)  # whatever is slow the first time
        for _ in range(self.rounds):
            for point, (_, sales) in zip(points, made, strict=True):
                point.rounds.append(await self._round(sales, self.seconds))
                self.bars.advance(bar)
        return Growth(thing, points)

    async def _round(self, sales: Sequence[Sale], seconds: int) -> Round:
        """Grab for so long, and leave the sales as they were."""
        stack, gateway = self.stack, self.gateway
        redis_pid = stack.services.pid("redis")
        if redis_pid is None:
            raise UserMistake("growth needs a Redis of its own; unset SECKILL_REDIS_URL")
        held = await self._total("hlen", redis_keys.holders, sales)
        before = gateway.cpu_s(), cpu_s_of(redis_pid)
        grabbed = await grab_in(stack, gateway.url, sales, seconds)
        after = gateway.cpu_s(), cpu_s_of(redis_pid)
        async with asyncio.timeout(QUIET_S):  # every accepted batch is confirmed and dropped
            while True:
                if not await self._total("xlen", redis_keys.outbox, sales):
                    break
                await asyncio.sleep(holders.LOOK_S)
        # Some grabs were in flight in the end, and wrk does not count them.
        await holders.take_out(stack.redis, sales, grabbed.grabs + 2 * CONNECTIONS)
        if await self._total("hlen", redis_keys.holders, sales) != held:
            raise AssertionError("bug: a round left holders behind")
        await stack.drop_queue()
        gateway_us, redis_us = (
            1e6 * (end - begin) / grabbed.grabs for begin, end in zip(before, after, strict=True)
        )
        return Round(grabbed.grabs, 1e6 / grabbed.per_s, gateway_us, redis_us)

    async def _total(
        self, command: str, key_of: Callable[[str], str], sales: Sequence[Sale]
    ) -> int:
        """Return the sum of the lengths of a key of these sales."""
        async with self.stack.redis.pipeline(transaction=False) as pipe:
            for sale in sales:
                getattr(pipe, command)(key_of(sale.sale_id))
            return sum(await pipe.execute())
