"""`python -m loadtest.bench.growth`: what a grab costs as holders, or sales, become many.

wrk grabs as fast as one gateway on one core answers, in sales that have 1,000 to 10,000,000 holders
already; and then in 1 to 1,000 sales in turn.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.bench.grab_costs import FEW, MANY, Growth, holders_growth, sales_growth
from loadtest.bench.wrk import CONNECTIONS, require_wrk
from loadtest.findings import Finding, check_output, origin, show, write_json
from loadtest.stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, thrown_away_stack
from seckill.errors import SeckillError

HOLDERS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SALES = (1, 10, 100, 1_000)
#: Times that a grab among MANY holders may cost one among FEW.
PROMISED = 1.3


def findings_of(growth: Growth) -> list[Finding]:
    """Return what is to be said of it."""
    found = []
    for point in growth.points:
        times = [round_.time_us for round_ in point.rounds]
        found.append(
            Finding(
                f"a grab, {growth.thing}: {point.size:,}",
                f"{point.time_us:.1f} us ({min(times):.1f} .. {max(times):.1f}); CPU: "
                f"gateway {point.gateway_cpu_us:.1f}, Redis {point.redis_cpu_us:.1f} us",
            )
        )
    return found


def ratio_of(growth: Growth, few: int, promised: float | None = None) -> list[Finding]:
    """Return the finding of the most by `few`, if there are more than that."""
    part = growth.since(few)
    if len(part.points) < 2:
        return []
    many = part.points[-1].size
    return [
        Finding(
            f"{growth.thing}: {many:,} by {few:,}",
            f"x {part.ratio:.2f}; CPU x {part.cpu_ratio:.2f}",
            "" if promised is None else f"under x {promised:g}",
            None if promised is None else part.ratio < promised,
        )
    ]


async def run(
    sizes: Sequence[int],
    counts: Sequence[int],
    rounds: int,
    seconds: int,
    json_file: Path | None,
    progress: Progress,
) -> list[Finding]:
    """Measure both on stores that are thrown away afterwards."""
    require_wrk()
    measured: list[Growth] = []
    async with thrown_away_stack(OTHER_CORE) as stack:
        gateway = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
        if sizes:
            measured.append(
                await holders_growth(
                    stack, gateway, sizes, rounds=rounds, seconds=seconds, progress=progress
                )
            )
        if counts:
            measured.append(
                await sales_growth(
                    stack, gateway, counts, rounds=rounds, seconds=seconds, progress=progress
                )
            )
        stores = await stack.versions()
    findings = [finding for growth in measured for finding in findings_of(growth)]
    for growth in measured:
        findings += (
            ratio_of(growth, FEW, PROMISED) if growth.thing == "holders" else ratio_of(growth, 1)
        )
    if json_file is not None:
        plain = {growth.thing: growth.plain() for growth in measured}
        options = {"rounds": rounds, "seconds": seconds, "connections": CONNECTIONS}
        said = [asdict(finding) for finding in findings]
        head = origin("growth", stores) | {"options": options, "findings": said}
        write_json(json_file, head | plain)
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
    if len(os.sched_getaffinity(0)) <= OTHER_CORE:
        raise SystemExit("growth: two cores are needed, one for the gateway")
    sizes = [size for size in HOLDERS if size <= holders_max]
    counts = [count for count in SALES if count <= sales_max]
    if not sizes and not counts:
        raise typer.BadParameter(f"nothing is measured; give --holders-max {HOLDERS[0]} or more")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        try:
            findings = asyncio.run(run(sizes, counts, rounds, seconds, json_file, progress))
        except SeckillError as error:
            raise SystemExit(f"growth: {error}") from error
    show(findings, as_json=False)


if __name__ == "__main__":
    typer.run(main)
