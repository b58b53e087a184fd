"""`python -m loadtest.bench.builds BEFORE [AFTER]`: what a grab and a scrape cost in two versions.

BEFORE and AFTER are source trees (`git worktree add`); without AFTER it is this one. A gateway of
each works on the same stores, in turns of some thousand grabs. The stores have the schema of this
tree, which both have to know.
The cost is CPU time of the gateway, so other work on the machine disturbs little.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from aiohttp import ClientSession

from config.settings import PROJECT_ROOT
from loadtest.crowd.offer import offer_grabs
from loadtest.crowd.schedule import Schedule
from loadtest.findings import AsJson, Finding, measure
from loadtest.stack import NO_SHEDDING, BenchStack, Process, bench_stack
from ops.stack.services import temporary_home

#: Scrapes whose CPU time is taken together: it is counted by the hundredth of a second.
SCRAPES = 200
CONNECTIONS = 200
#: The share of grabs per CPU second that a change may cost.
LEAST_RATIO = 0.97


def builds(
    before: Annotated[Path, typer.Argument(exists=True, help="A source tree.")],
    after: Annotated[Path, typer.Argument(exists=True, help="Another one.")] = PROJECT_ROOT,
    rounds: Annotated[int, typer.Option(min=1)] = 14,
    rate: Annotated[int, typer.Option(help="Grabs a second.", min=10)] = 3_000,
    seconds: Annotated[int, typer.Option(help="Of one turn.", min=1)] = 3,
    as_json: AsJson = False,
) -> None:
    """Compare two versions in interleaved rounds."""
    schedule = Schedule(rate=rate, seconds=seconds)
    measure(_builds((before.resolve(), after.resolve()), rounds, schedule), as_json)


async def _builds(trees: tuple[Path, Path], rounds: int, schedule: Schedule) -> list[Finding]:
    with temporary_home() as home:
        async with bench_stack(home=home) as stack:
            gateways = [await _gateway(stack, tree) for tree in trees]
            costs: tuple[list[float], list[float]] = ([], [])
            for number in range(rounds + 1):
                for side in (0, 1) if number % 2 else (1, 0):
                    cost_us = await grab_us(stack, gateways[side], schedule)
                    if number:  # the first round warms up
                        costs[side].append(cost_us)
                await stack.drop_queue()
            scrapes = [await _scrape_ms(gateway) for gateway in gateways]
    ratio = median(costs[0]) / median(costs[1])
    return [
        *(
            Finding(f"CPU time of a grab, {name}", f"{median(c):.1f} us ({min(c):.1f})")
            for name, c in zip(("before (least)", "after (least)"), costs, strict=True)
        ),
        Finding(
            "grabs per CPU second, after to before",
            f"x {ratio:.3f}",
            f"x {LEAST_RATIO}",
            ratio >= LEAST_RATIO,
        ),
        Finding("CPU time of a scrape", f"{scrapes[0]:.1f} ms, {scrapes[1]:.1f} ms"),
    ]


async def _gateway(stack: BenchStack, tree: Path) -> Process:
    """Start the gateway of a source tree."""
    overrides = {"PYTHONPATH": str(tree), "SECKILL_PREFLIGHT": "warn", **NO_SHEDDING}
    process = await stack.run("gateway", **overrides)
    child = process.child
    await child.stop()
    child.spec = replace(child.spec, cwd=tree)  # `-m` looks there first
    await child.start()
    return process


async def grab_us(stack: BenchStack, gateway: Process, schedule: Schedule) -> float:
    """Offer grabs to a gateway; return its CPU time for an accepted one, in microseconds."""
    sale = await stack.open_sale()
    before = _cpu_ns(gateway)
    report = await offer_grabs(stack, gateway.url, [sale], schedule, connections=CONNECTIONS)
    return (_cpu_ns(gateway) - before) / 1000 / len(report.answered(202))


async def _scrape_ms(gateway: Process) -> float:
    async with ClientSession() as session:
        before = _cpu_ns(gateway)
        for _ in range(SCRAPES):
            async with session.get(f"{gateway.admin_url}/metrics") as response:
                await response.read()
        return (_cpu_ns(gateway) - before) / 1e6 / SCRAPES


def _cpu_ns(process: Process) -> int:
    """Return the CPU time of all threads, by the scheduler's own clock."""
    files = Path(f"/proc/{process.child.pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files)


if __name__ == "__main__":
    typer.run(builds)
