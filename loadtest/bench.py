"""`make bench`: side by side, interleaved, in one run; the ratios are what carries over.

Pairs: a grab through the micro-batcher against one script call a request (same application, same
core); placing merged batches against one transaction an order (same consumer, full queue).
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from config.settings import PROJECT_ROOT
from loadtest.bench_stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, BenchStack, bench_stack
from loadtest.wrk import grabs_per_second, require_wrk
from seckill.errors import SeckillError

#: Grabs in one message of the full queue: what a gateway makes of 256 busy connections.
MESSAGE_GRABS = 50
MERGED_ORDERS = 60_000
SINGLE_ORDERS = 3_000


@dataclass(slots=True)
class Side:
    """One side of a pair and what was measured of it, per second."""

    name: str
    measure: Callable[[], Awaitable[float]]
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of the runs."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> str:
        """The slowest and the fastest run."""
        return f"{min(self.rates):,.0f} .. {max(self.rates):,.0f}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sides, the least ratio of their medians, and the least rate of the first."""

    ours: Side
    other: Side
    least_ratio: float
    least_rate: float = 0.0

    @property
    def ratio(self) -> float:
        """Median over median."""
        return self.ours.median / self.other.median

    @property
    def reached(self) -> bool:
        """Tell whether both bounds are met."""
        return self.ratio >= self.least_ratio and self.ours.median >= self.least_rate


async def run(runs: int, seconds: int, progress: Progress) -> list[Pair]:
    """Measure all pairs, interleaved."""
    async with bench_stack(PROJECT_ROOT / ".seckill" / "bench", OTHER_CORE) as stack:
        batched = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
        single = await stack.run(
            "gateway",
            TESTED_CORE,
            SECKILL_GRAB_BATCH_MAX="1",
            # As many connections as the pool has: a call waits for nothing but its turn.
            SECKILL_GRAB_CALLS_IN_FLIGHT="16",
            **NO_SHEDDING,
        )
        pairs = [
            Pair(
                Side(
                    "grabs/s, micro-batched", lambda: grabs_per_second(stack, batched.url, seconds)
                ),
                Side(
                    "grabs/s, one EVALSHA each",
                    lambda: grabs_per_second(stack, single.url, seconds),
                ),
                least_ratio=2.5,
            ),
            Pair(
                Side("orders/s, merged", lambda: _orders(stack, MERGED_ORDERS, merged=True)),
                Side(
                    "orders/s, one by one",
                    lambda: _orders(stack, SINGLE_ORDERS, merged=False),
                ),
                least_ratio=10,
                least_rate=15_000,
            ),
        ]
        bar = progress.add_task("measuring", total=2 * runs * len(pairs))
        for pair in pairs:
            for _ in range(runs):
                for side in (pair.ours, pair.other):
                    progress.update(bar, description=side.name)
                    side.rates.append(await side.measure())
                    progress.advance(bar)
    return pairs


async def _orders(stack: BenchStack, count: int, *, merged: bool) -> float:
    """Orders landed in PostgreSQL in a second, by one consumer that finds a full queue."""
    sale = await stack.open_sale()
    await stack.fill_queue(sale, count, MESSAGE_GRABS if merged else 1)
    overrides = {} if merged else {"SECKILL_PLACE_BATCH_MAX": "1"}
    consumer = await stack.run("consumers", TESTED_CORE, **overrides)
    try:
        return await stack.rate_of_placing(sale, count)
    finally:
        await consumer.child.stop()
        await stack.drop_queue()


def main(
    runs: Annotated[int, typer.Option(help="Interleaved runs of each side.", min=1)] = 5,
    seconds: Annotated[int, typer.Option(help="Length of one grab run.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Run the benchmarks; exit 1 when a bound is missed."""
    console = Console(stderr=as_json)
    if len(os.sched_getaffinity(0)) <= OTHER_CORE:
        raise SystemExit("bench: two cores are needed, one for the process under test")
    with Progress(console=console, transient=True) as progress:
        try:
            require_wrk()
            pairs = asyncio.run(run(runs, seconds, progress))
        except SeckillError as error:
            raise SystemExit(f"bench: {error}") from error
    if as_json:
        print(json.dumps([_plain(pair) for pair in pairs]))
    else:
        _print(console, pairs, runs)
    raise typer.Exit(0 if all(pair.reached for pair in pairs) else 1)


def _plain(pair: Pair) -> dict[str, object]:
    sides = {side.name: side.rates for side in (pair.ours, pair.other)}
    return {"rates": sides, "ratio": pair.ratio, "least": pair.least_ratio, "reached": pair.reached}


def _print(console: Console, pairs: list[Pair], runs: int) -> None:
    table = Table("what", "median", "slowest .. fastest", "ratio", "at least", "reached")
    for pair in pairs:
        least = f"{pair.least_ratio:g}"
        if pair.least_rate:
            least += f" and {pair.least_rate:,.0f}/s"
        verdict = "yes" if pair.reached else "NO"
        ours, other = pair.ours, pair.other
        table.add_row(
            ours.name, f"{ours.median:,.0f}", ours.spread, f"{pair.ratio:.2f}", least, verdict
        )
        table.add_row(other.name, f"{other.median:,.0f}", other.spread, "1")
    console.print(table)
    packages = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "redis"))
    console.print(
        f"{runs} interleaved runs; process under test on core {TESTED_CORE}, stores and generator "
        f"on core {OTHER_CORE} of {os.cpu_count()}; Python {platform.python_version()}, {packages}",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
