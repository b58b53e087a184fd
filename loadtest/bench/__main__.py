"""`make bench`: the gateway beside others, interleaved, in one run; ratios are what carries over.

Each row is a ratio of medians, or a figure that is best read beside its ratio.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.bench.grab_costs import FEW, MANY, Growth, holders_growth
from loadtest.bench.sides import Side, one_core_sides, order_sides, p99_side, two_process_sides
from loadtest.bench.wrk import require_wrk
from loadtest.findings import origin
from loadtest.stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, thrown_away_stack
from seckill.errors import SeckillError


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what is measured, of which sides, and what it has to be at least."""

    number: str
    name: str
    side: str
    #: What it is divided by; "" where the figure itself counts.
    by: str = ""
    bound: float | None = None
    aim: float | None = None
    #: Whether less is better: bound and aim are upper ones then.
    less: bool = False

    def figure(self, sides: Mapping[str, Side]) -> float | None:
        """Return the figure; None when a side was left out."""
        if self.side not in sides or (self.by and self.by not in sides):
            return None
        return sides[self.side].median / (sides[self.by].median if self.by else 1)

    def reached(self, figure: float, goal: float | None) -> bool:
        """Tell whether a figure is as good as a goal."""
        return goal is None or (figure <= goal if self.less else figure >= goal)


ROWS = (
    Row("1", "won, one core / nginx + Lua, script only", "win", "nginx", 0.9, 1.3),
    Row("2", "won, one core / bare aiohttp hello", "win", "hello", 1.2, 2),
    Row("3", "sold out, one core / nginx + Lua, constant", "sold_out", "constant", 0.45, 0.7),
    Row("4", "orders/s all the way / one by one", "orders", "single", 15, 25),
    Row("5", "orders/s all the way, two cores", "orders", "", 18_000, 25_000),
    Row("6", "p99 at half that rate, open loop, ms", "p99", "", 25, 10, less=True),
    Row("7", "two gateways / one", "two", "one", 1.7, 1.9),
    Row("8", "a grab among 10 M holders / 10 k", "many", "few", 1.3, 1.05, less=True),
    Row("", "two gateways / one, counting who shares its core", "both", "one"),
    Row("", "micro-batched / one EVALSHA a grab", "win", "unbatched", 2.5),
    Row("", "one consumer, full queue / one by one", "merged", "single", 10),
)


async def run(runs: int, seconds: int, holders: int, progress: Progress) -> dict[str, Side]:
    """Measure all sides.

    Each part on stores of its own: grabs of one that nobody placed would be found by the other's
    consumers, and placed.
    """
    sides: dict[str, Side] = {}
    async with thrown_away_stack(OTHER_CORE) as stack:
        async with one_core_sides(stack, seconds, progress.console.print) as servers:
            sides |= servers
            await _interleave(servers.values(), runs, progress)
        pairs = await two_process_sides(stack, seconds)
        sides |= pairs
        await _interleave(pairs.values(), runs, progress)
    async with thrown_away_stack() as stack:
        orders = await order_sides(stack, seconds)
        sides |= orders
        await _interleave(orders.values(), runs, progress)
        sides["p99"] = await p99_side(stack, orders["orders"].median / 2, 2 * seconds)
        await _interleave([sides["p99"]], runs, progress)
    if holders:
        async with thrown_away_stack(OTHER_CORE) as stack:
            gateway = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
            sizes = FEW, holders
            growth = await holders_growth(
                stack, gateway, sizes, rounds=runs, seconds=seconds, progress=progress
            )
        sides |= dict(zip(("few", "many"), _sides_of(growth), strict=True))
    return sides


async def _interleave(sides: Iterable[Side], runs: int, progress: Progress) -> None:
    together = list(sides)
    bar = progress.add_task("measuring", total=runs * len(together))
    for _ in range(runs):
        for side in together:
            progress.update(bar, description=side.name)
            await side.run()
            progress.advance(bar)


def _sides_of(growth: Growth) -> list[Side]:
    return [
        Side(
            f"a grab among {point.size:,} holders, us",
            _measured_already,
            [round_.time_us for round_ in point.rounds],
        )
        for point in growth.points
    ]


async def _measured_already() -> float:
    raise AssertionError("bug: growth is measured as a whole")


def main(
    runs: Annotated[int, typer.Option(help="Interleaved runs of each side.", min=1)] = 5,
    seconds: Annotated[int, typer.Option(help="Length of one run.", min=1)] = 5,
    holders: Annotated[
        int, typer.Option(help="Most holders for the last row: 100 bytes each; 0: left out.", min=0)
    ] = MANY,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Run the benchmarks; exit 1 when a bound is missed."""
    console = Console(stderr=as_json)
    if len(os.sched_getaffinity(0)) <= OTHER_CORE:
        raise SystemExit("bench: two cores are needed, one for the process under test")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        try:
            require_wrk()
            sides = asyncio.run(run(runs, seconds, holders, progress))
        except SeckillError as error:
            raise SystemExit(f"bench: {error}") from error
    if as_json:
        print(json.dumps(_plain(sides)))
    else:
        _print(console, sides, runs, seconds)
    figures = {row: row.figure(sides) for row in ROWS}
    missed = [
        row for row, figure in figures.items() if figure and not row.reached(figure, row.bound)
    ]
    raise typer.Exit(1 if missed else 0)


def _plain(sides: Mapping[str, Side]) -> dict[str, object]:
    rows = [
        {
            "row": row.number,
            "name": row.name,
            "figure": figure,
            "bound": row.bound,
            "aim": row.aim,
            "reached": figure is not None and row.reached(figure, row.bound),
        }
        for row in ROWS
        for figure in [row.figure(sides)]
    ]
    measured = {
        key: {"name": side.name, "figures": side.figures, "busy": side.busy}
        for key, side in sides.items()
    }
    return origin("bench", {}) | {"rows": rows, "sides": measured}


def _print(console: Console, sides: Mapping[str, Side], runs: int, seconds: int) -> None:
    table = Table("side", "median", "slowest .. fastest", "its share of a core")
    for side in sides.values():
        busy = f"{min(side.busy):.0%} .. {max(side.busy):.0%}" if side.busy else ""
        spread = f"{_text(min(side.figures))} .. {_text(max(side.figures))}"
        table.add_row(side.name, _text(side.median), spread, busy)
    console.print(table)
    table = Table("#", "what", "measured", "at least", "aim", "reached")
    for row in ROWS:
        figure = row.figure(sides)
        if figure is None:
            table.add_row(row.number, row.name, "left out", *map(_goal, (row.bound, row.aim)), "")
            continue
        verdict = "" if row.bound is None else "yes" if row.reached(figure, row.bound) else "NO"
        if row.aim is not None and row.reached(figure, row.aim):
            verdict = "aim"
        table.add_row(
            row.number, row.name, _text(figure), *map(_goal, (row.bound, row.aim)), verdict
        )
    console.print(table)
    console.print(
        f"medians of {runs} interleaved runs of {seconds} s; figures a second where not said "
        "otherwise; # 6 and 8: at most",
        highlight=False,
    )
    where = origin("bench", {})
    console.print(f"{where['machine']}; {where['versions']}", highlight=False)


def _text(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


def _goal(goal: float | None) -> str:
    return "" if goal is None else f"{goal:,g}"


if __name__ == "__main__":
    typer.run(main)
