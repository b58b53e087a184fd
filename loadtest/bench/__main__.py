"""`make bench`: the gateway beside others, interleaved, in one run; ratios are what carries over.

Each row is a ratio of medians, or a figure that is best read beside its ratio.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.progress import Progress

from loadtest.bench.grab_costs import FEW, MANY, GrabCosts, Point
from loadtest.bench.order_costs import RATES, cost_sides, measured_costs
from loadtest.bench.order_sides import order_sides, p99_side
from loadtest.bench.sides import Side, one_core_sides, two_process_sides
from loadtest.bench.wrk import require_wrk
from loadtest.findings import AsJson, Finding, origin, progress, report
from loadtest.stack import HOME, OTHER_CORE, require_two_cores, temporary_stack

#: What orders cost by part on this machine, in how many runs at most.
COSTS_FILE, COST_RUNS = HOME / "costs.json", 3


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
    #: Whether it is per CPU second of the process under test: one side may be less busy.
    per_cpu: bool = False

    def figure(self, sides: Mapping[str, Side]) -> float | None:
        """Return the figure; None when a side was left out."""
        if self.side not in sides or (self.by and self.by not in sides):
            return None
        figures = [
            sides[name].median_per_cpu if self.per_cpu else sides[name].median
            for name in (self.side, self.by)
            if name
        ]
        return figures[0] / figures[1] if self.by else figures[0]

    def reached(self, figure: float, goal: float | None) -> bool:
        """Return whether a figure is as good as a goal."""
        return goal is None or (figure <= goal if self.less else figure >= goal)

    def finding(self, sides: Mapping[str, Side]) -> Finding:
        """Return the line for the table."""
        name = f"{self.number:>1} {self.name}"
        goals = [("at most" if self.less else "at least", self.bound), ("aim", self.aim)]
        promised = ", ".join(f"{word} {goal:,g}" for word, goal in goals if goal is not None)
        figure = self.figure(sides)
        if figure is None:
            return Finding(name, "left out", promised)
        reached = None if self.bound is None else self.reached(figure, self.bound)
        aimed = self.aim is not None and self.reached(figure, self.aim)
        return Finding(name, f"{_text(figure)}{', the aim' if aimed else ''}", promised, reached)

    def plain(self, sides: Mapping[str, Side]) -> dict[str, object]:
        """Return it for JSON."""
        figure = self.figure(sides)
        return {
            "row": self.number,
            "name": self.name,
            "figure": figure,
            "bound": self.bound,
            "aim": self.aim,
            "reached": self.finding(sides).reached,
        }


ROWS = (
    Row("1", "won, one core / nginx + Lua, script only", "win", "nginx", 0.9, 1.3),
    Row("2", "won, one core / bare aiohttp hello", "win", "hello", 1.2, 2),
    Row("3", "sold out, one core / nginx + Lua, constant", "sold_out", "constant", 0.45, 0.7),
    Row("4", "orders/s all the way / one by one", "orders", "single", 15, 25),
    Row("5", "orders/s all the way, two cores", "orders", "", 18_000, 25_000),
    Row("6", "p99 at half that rate, open loop, ms", "p99", "", 25, 10, less=True),
    Row("7", "two gateways / one", "two", "one", 1.7, 1.9),
    Row("8", "a grab among 10 M holders / 10 k", "many", "few", 1.3, 1.05, less=True),
    Row("9", "CPU of all processes an order at 500/s, us", "cost_500"),
    Row("9", "CPU of all processes an order at 4,000/s, us", "cost_4000"),
    Row("", "row 1 per CPU second", "win", "nginx", per_cpu=True),
    Row("", "row 2 per CPU second", "win", "hello", per_cpu=True),
    Row("", "row 3 per CPU second", "sold_out", "constant", aim=0.55, per_cpu=True),
    Row("", "two gateways / one, counting who shares its core", "both", "one"),
    Row("", "micro-batched / one EVALSHA a grab", "win", "unbatched", 2.5),
    Row("", "one consumer, full queue / one by one", "merged", "single", 10),
)


async def run(runs: int, seconds: int, holders: int, bars: Progress) -> dict[str, Side]:
    """Measure all sides.

    Each part on stores of its own: the consumers of one part would find the unplaced grabs of
    another, and place them.
    """
    sides: dict[str, Side] = {}
    async with temporary_stack(OTHER_CORE) as stack:
        async with one_core_sides(stack, seconds, bars.console.print) as servers:
            sides |= servers
            await _interleave(servers.values(), runs, bars)
        pairs = await two_process_sides(stack, seconds)
        sides |= pairs
        await _interleave(pairs.values(), runs, bars)
    async with temporary_stack() as stack:
        orders = await order_sides(stack, seconds)
        sides |= orders
        await _interleave(orders.values(), runs, bars)
        costs = await cost_sides(stack, seconds)
        sides |= costs
        await _interleave(costs.values(), runs, bars)
        sides["p99"] = await p99_side(stack, orders["orders"].median / 2, 2 * seconds)
        await _interleave([sides["p99"]], runs, bars)
    async with temporary_stack() as stack:  # no other gateway or consumer takes time there
        HOME.mkdir(parents=True, exist_ok=True)
        bars.console.print(f"costs by part, for `seckill plan --costs`: {COSTS_FILE}")
        (await measured_costs(stack, RATES, min(runs, COST_RUNS), seconds)).write(COSTS_FILE)
    if holders:
        async with temporary_stack(OTHER_CORE) as stack:
            costs = GrabCosts(stack, await stack.gateway(), runs, seconds, bars)
            few, many = (await costs.by_holders((FEW, holders))).points
        sides |= {"few": _side_of(few), "many": _side_of(many)}
    return sides


async def _interleave(sides: Iterable[Side], runs: int, bars: Progress) -> None:
    together = list(sides)
    bar = bars.add_task("measuring", total=runs * len(together))
    for _ in range(runs):
        for side in together:
            bars.update(bar, description=side.name)
            await side.run()
            bars.advance(bar)


def _side_of(point: Point) -> Side:
    name = f"a grab among {point.size:,} holders, us"
    return Side(name, figures=point.costs("time_us"))


def main(
    runs: Annotated[int, typer.Option(help="Interleaved runs of each side.", min=1)] = 5,
    seconds: Annotated[int, typer.Option(help="Length of one run.", min=1)] = 5,
    holders: Annotated[
        int, typer.Option(help="Most holders for the last row: 100 bytes each; 0: left out.", min=0)
    ] = MANY,
    as_json: AsJson = False,
) -> None:
    """Run the benchmarks; exit 1 when a bound is missed."""
    require_two_cores()
    with progress() as bars:
        require_wrk()
        sides = asyncio.run(run(runs, seconds, holders, bars))
    rows = [row.finding(sides) for row in ROWS]
    if as_json:
        measured = {
            key: {"name": side.name, "figures": side.figures, "busy": side.busy}
            for key, side in sides.items()
        }
        plain = {"rows": [row.plain(sides) for row in ROWS], "sides": measured}
        print(json.dumps(origin("bench", {}) | plain))
        raise typer.Exit(0 if all(row.reached is not False for row in rows) else 1)
    print(f"medians of {runs} interleaved runs of {seconds} s; a second, where no unit is named")
    report([*map(_side_finding, sides.values()), *rows])


def _side_finding(side: Side) -> Finding:
    text = f"{_text(side.median)} ({_text(min(side.figures))} .. {_text(max(side.figures))})"
    if side.busy:
        text += f", {min(side.busy):.0%} .. {max(side.busy):.0%} of a core"
    return Finding(side.name, text)


def _text(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


if __name__ == "__main__":
    typer.run(main)
