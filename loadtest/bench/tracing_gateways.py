"""`python -m loadtest.bench.tracing_gateways`: CPU time of whole gateways for a won grab, traced.

Gateways of each setting work on the same stores, in turns of some thousand grabs. The cost is CPU
time of the gateway, with sockets, stores and the exporting thread, so other work on the machine
disturbs little. `tracing_costs` measures the gateway's own code alone, where the same tracing is a
larger share.

The promise, in grabs a CPU second: at least 0.99 with tracing on and nothing traced, and 0.98 at a
rate of 1 %, and where every grab is slow and as many become late traces as may.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from loadtest.bench.builds import grab_us
from loadtest.crowd.schedule import Schedule
from loadtest.findings import AsJson, Finding, measure
from loadtest.stack import NO_SHEDDING, BenchStack, Process, temporary_stack

#: Setting -> rate, bound in seconds; and the least share of the grabs a CPU second without tracing.
SETTINGS: dict[str, tuple[tuple[str, str], float | None]] = {
    "off": (("", "60"), None),
    "on, none is traced": (("0", "60"), 0.99),
    "1 % of all": (("0.01", "60"), 0.98),
    "all are slow": (("0", "0.000001"), 0.98),
}


def main(
    starts: Annotated[int, typer.Option(help="Gateways of each setting.", min=1)] = 6,
    rounds: Annotated[int, typer.Option(help="Interleaved turns of each of them.", min=1)] = 12,
    rate: Annotated[int, typer.Option(help="Grabs a second.", min=10)] = 4_000,
    seconds: Annotated[int, typer.Option(help="Of one turn.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure what tracing costs a gateway."""
    measure(_costs(starts, rounds, Schedule(rate=rate, seconds=seconds)), as_json)


async def _costs(starts: int, rounds: int, schedule: Schedule) -> list[Finding]:
    costs: dict[str, list[float]] = {name: [] for name in SETTINGS}
    async with temporary_stack() as stack:
        # Two processes of the same code differ by two per cent, for as long as they live.
        for _ in range(starts):
            await _turns(stack, rounds, schedule, costs)
    findings = []
    for name, (_, least) in SETTINGS.items():
        # Of the same round, so that a machine that slows down slows both.
        share = median(a / b for a, b in zip(costs["off"], costs[name], strict=True))
        text = f"{median(costs[name]):.1f} us (least {min(costs[name]):.1f})"
        if least is not None:
            text += f", {share:.3f}"
        promised, reached = ("", None) if least is None else (str(least), share >= least)
        findings.append(Finding(f"a grab, tracing: {name}", text, promised, reached))
    return findings


async def _turns(
    stack: BenchStack, rounds: int, schedule: Schedule, costs: dict[str, list[float]]
) -> None:
    """Start a gateway of each setting, and add what grabs cost them in turn."""
    gateways = {name: await _gateway(stack, name) for name in costs}
    for number in range(rounds + 1):
        for name in costs if number % 2 else reversed(costs):
            cost_us = await grab_us(stack, gateways[name], schedule)
            if number:  # the first turn warms up
                costs[name].append(cost_us)
        await stack.drop_queue()
    for gateway in gateways.values():
        await gateway.child.stop()


async def _gateway(stack: BenchStack, name: str) -> Process:
    (rate, slow_s), _ = SETTINGS[name]
    traced = {"SECKILL_TRACE_RATE": rate} if rate else {}
    return await stack.run(
        "gateway",
        SECKILL_TRACE_SLOW_S=slow_s,
        SECKILL_TRACE_FILE=str(Path(stack.home, f"traces-{len(name)}.jsonl")),
        **traced,
        **NO_SHEDDING,
    )


if __name__ == "__main__":
    typer.run(main)
