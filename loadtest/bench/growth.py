"""`python -m loadtest.bench.growth`: what a grab costs as holders, or sales, become many.

wrk grabs as fast as one gateway on one core answers, in sales that have 1,000 to 10,000,000 holders
already; and then in 1 to 1,000 sales in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from loadtest.bench.grab_costs import FEW, MANY, GrabCosts, Growth
from loadtest.bench.wrk import CONNECTIONS, require_wrk
from loadtest.findings import Finding, check_output, progress, report, write_json
from loadtest.stack import OTHER_CORE, require_two_cores, temporary_stack

HOLDERS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SALES = (1, 10, 100, 1_000)
#: Times that a grab among MANY holders may cost one among FEW.
PROMISED = 1.3


def findings_of(growth: Growth) -> list[Finding]:
    """Return the cost at each point."""
    findings = []
    for point in growth.points:
        times, cost = point.costs("time_us"), point.median
        text = (
            f"{cost('time_us'):.1f} us ({min(times):.1f} .. {max(times):.1f}); CPU: "
            f"gateway {cost('gateway_cpu_us'):.1f}, Redis {cost('redis_cpu_us'):.1f} us"
        )
        findings.append(Finding(f"a grab, {growth.thing}: {point.size:,}", text))
    return findings


def ratio_of(growth: Growth, few: int, promised: float | None = None) -> list[Finding]:
    """Return the finding of the most by `few`, if there are more than that."""
    part = growth.since(few)
    if len(part.points) < 2:
        return []
    name = f"{growth.thing}: {part.points[-1].size:,} by {few:,}"
    text = f"x {part.ratio:.2f}; CPU x {part.cpu_ratio:.2f}"
    if promised is None:
        return [Finding(name, text)]
    return [Finding(name, text, f"under x {promised:g}", part.ratio < promised)]


async def run(
    sizes: Sequence[int],
    counts: Sequence[int],
    rounds: int,
    seconds: int,
    json_file: Path | None,
    bars: Progress,
) -> list[Finding]:
    """Measure both on stores that are removed afterwards."""
    require_wrk()
    async with temporary_stack(OTHER_CORE) as stack:
        gateway = await stack.gateway()
        costs = GrabCosts(stack, gateway, rounds, seconds, bars)
        measured = [await costs.by_holders(sizes)] if sizes else []
        measured += [await costs.by_sales(counts)] if counts else []
        stores = await stack.versions()
    findings = [finding for growth in measured for finding in findings_of(growth)]
    for growth in measured:
        few, promised = (FEW, PROMISED) if growth.thing == "holders" else (1, None)
        findings += ratio_of(growth, few, promised)
    options = {"rounds": rounds, "seconds": seconds, "connections": CONNECTIONS}
    plain = {growth.thing: growth.plain() for growth in measured}
    write_json(json_file, "growth", stores, options, findings, plain)
    return findings


def main(
    holders_max: Annotated[int, typer.Option(help="Most holders; 0: none.", min=0)] = MANY,
    sales_max: Annotated[int, typer.Option(help="Most sales; 0: none.", min=0)] = SALES[-1],
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of each size.", min=1)] = 5,
    seconds: Annotated[int, typer.Option(help="Length of a round.", min=1)] = 3,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the figures.", callback=check_output)
    ] = None,
) -> None:
    """Measure what a grab costs as holders, or sales, become many."""
    require_two_cores()
    sizes = [size for size in HOLDERS if size <= holders_max]
    counts = [count for count in SALES if count <= sales_max]
    if not sizes and not counts:
        raise typer.BadParameter(f"nothing is measured; give --holders-max {HOLDERS[0]} or more")
    with progress() as bars:
        findings = asyncio.run(run(sizes, counts, rounds, seconds, json_file, bars))
    report(findings)


if __name__ == "__main__":
    typer.run(main)
