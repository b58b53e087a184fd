"""`python -m loadtest.drills.overload limit|overload`: more load than the edge takes.

`limit` offers grabs to four gateways at ten times a sale's rate limit, and reports what was
admitted against the bound, and what became of buyers who came back when told. `overload` offers one
gateway three times what it can answer, and reports the wait of the answered, the refusals, the
recovery and the memory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from config.settings import PROJECT_ROOT
from loadtest.bench.wrk import CONNECTIONS, grabs_per_second
from loadtest.crowd.generator import (
    Crowd,
    GeneratorReport,
    PlannedRequest,
    grab_bytes,
    no_garbage_looked_for,
)
from loadtest.crowd.report import generator
from loadtest.findings import Finding, Json, ledger_finding, measure, show, told_text
from loadtest.stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, BenchStack, bench_stack
from ops.processes.ports import free_port
from seckill.sales.sales import Sale

GATEWAYS = 4
#: Times the limit that is offered.
LIMIT_FACTOR = 10
#: One buyer in so many does as Retry-After says, unless it says more than this.
OBEDIENT_EVERY, OBEY_WITHIN_S = 20, 120.0
CONNECTIONS_MAX = 4_000
#: After an overload, requests at this gentle rate show when all is well again.
GENTLE_RATE, GENTLE_S = 100, 4.0

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def limit(
    rate: Annotated[int, typer.Option(help="The sale's limit, grabs a second.", min=1)] = 100,
    grabs: Annotated[int, typer.Option(help="Grabs to offer.", min=100)] = 100_000,
    as_json: Json = False,
) -> None:
    """Offer ten times the limit to four gateways."""
    show(measure(_limit(rate, grabs), as_json), as_json)


@app.command()
def overload(
    seconds: Annotated[int, typer.Option(help="Length of the overload.", min=5)] = 60,
    factor: Annotated[float, typer.Option(help="Times the capacity to offer.", min=0.1)] = 3.0,
    connections: Annotated[
        int, typer.Option(help="The generator's connections.", min=1)
    ] = CONNECTIONS_MAX,
    as_json: Json = False,
) -> None:
    """Offer one gateway, by default, three times what it can answer."""
    show(measure(_overload(seconds, factor, connections), as_json), as_json)


async def _limit(rate: int, grabs: int) -> list[Finding]:
    async with bench_stack(PROJECT_ROOT / ".seckill" / "bench") as stack:
        port = free_port()
        for n in range(GATEWAYS):
            await stack.run("gateway", n % (os.cpu_count() or 1), port=port)
        await stack.run("consumers", OTHER_CORE)
        sale = await stack.open_sale()
        bound = await stack.limit(sale, rate)
        offered = LIMIT_FACTOR * rate
        report = await _offer(port, sale, _shots(stack, sale, offered, grabs))
        books = await stack.verify(sale, wait_s=60)
    first = [shot for shot in report.shots if not shot.comes_back]
    back = [shot for shot in report.shots if shot.comes_back]
    # Every admission of the offered load lies between its first request and its last answer.
    admitted = sorted(s.answered_s for s in report.shots if s.status == 202)
    span_s = max(shot.answered_s for shot in first)
    count = sum(1 for at in admitted if at <= span_s)
    most = bound.rate * span_s + bound.burst
    waits = [shot.retry_after_s for shot in first if shot.status == 429]
    told = report.told()
    return [
        Finding("offered", f"{len(first):,} grabs at {offered:,}/s, and {len(back):,} returns"),
        Finding("told", told_text(told), "202 and 429 alone", set(told) <= {202, 429}),
        Finding(
            "admitted while it was offered",
            f"{count:,} of at most {most:,.1f} ({100 * (most - count) / most:.2f} % under)",
            "0 to 2 % under",
            0 <= most - count <= 0.02 * most,
        ),
        Finding(
            "largest excess of any interval",
            f"{_excess(report, bound.rate, bound.burst):.1f} grabs",
            "none above 0",
            _excess(report, bound.rate, bound.burst) <= 0,
        ),
        Finding("Retry-After", f"{min(waits)} .. {max(waits)} s" if waits else "none"),
        Finding(
            f"came back when told (to wait up to {OBEY_WITHIN_S:g} s)",
            f"{sum(s.status == 202 for s in back):,} of {len(back):,} admitted",
            "all",
            all(shot.status == 202 for shot in back),
        ),
        Finding(
            "wait for a 429",
            f"p50 {report.latency_ms(0.5, 429):.1f} ms, p99 {report.latency_ms(0.99, 429):.1f} ms",
        ),
        generator(report),
        ledger_finding(books),
    ]


async def _overload(seconds: int, factor: float, connections: int) -> list[Finding]:
    async with bench_stack(PROJECT_ROOT / ".seckill" / "bench", OTHER_CORE) as stack:
        gateway = await stack.run("gateway", TESTED_CORE)
        free = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
        capacity = await grabs_per_second(stack, free.url, 5)
        await free.child.stop()
        offered = int(factor * capacity)
        sale = await stack.open_sale()
        pid = gateway.child.pid or 0
        before_mb, peak_mb = _resident_mb(pid), 0.0
        port = int(gateway.url.rpartition(":")[2])
        gentle = int(GENTLE_RATE * GENTLE_S)
        total = offered * seconds
        shots = _then_gentle(_shots(stack, sale, offered, total + gentle), offered, total)
        run = asyncio.create_task(_offer(port, sale, shots, connections))
        while not run.done():
            peak_mb = max(peak_mb, _resident_mb(pid))
            await asyncio.wait({run}, timeout=0.5)
        report = await run
        after_mb = _resident_mb(pid)
        await stack.drop_queue()
    ends_s = total / offered
    heavy = GeneratorReport([shot for shot in report.shots if shot.due_s < ends_s])
    troubled = [
        s.due_s - ends_s
        for s in report.shots
        if s.due_s >= ends_s and (s.status != 202 or s.answered_s - s.due_s > 0.25)
    ]
    p99 = heavy.latency_ms(0.99, 202)
    told = heavy.told()
    return [
        Finding("capacity", f"{capacity:,.0f} grabs/s (closed loop, {CONNECTIONS} connections)"),
        Finding("offered", f"{offered:,}/s for {seconds} s, open loop"),
        Finding("told", told_text(told), "202 and 503 alone", set(told) <= {202, 503}),
        Finding("answered", f"{told[202] / seconds:,.0f} grabs/s"),
        Finding(
            "wait of the answered",
            f"p50 {heavy.latency_ms(0.5, 202):.0f} ms, p99 {p99:.0f} ms, "
            f"max {heavy.latency_ms(1, 202):.0f} ms",
            "p99 under 250 ms",
            p99 < 250,
        ),
        Finding(
            "wait for a 503",
            f"p50 {heavy.latency_ms(0.5, 503):.0f} ms, p99 {heavy.latency_ms(0.99, 503):.0f} ms",
        ),
        Finding(
            "last trouble after the end",
            f"{max(troubled, default=0.0):.2f} s",
            "within 2 s",
            max(troubled, default=0.0) < 2,
        ),
        Finding(
            "resident memory",
            f"{before_mb:.0f} MB before, {peak_mb:.0f} MB at most, {after_mb:.0f} MB after",
        ),
        generator(report),
    ]


async def _offer(
    port: int, sale: Sale, shots: Iterator[PlannedRequest], connections: int = CONNECTIONS_MAX
) -> GeneratorReport:
    """Let a crowd loose, on a loop of its own: uvloop cannot start the stores as other users."""

    async def offer() -> GeneratorReport:
        crowd = Crowd("127.0.0.1", port, connections_max=connections, obey_within_s=OBEY_WITHIN_S)
        await crowd.connect(connections)
        await crowd.warm_up(sale.sale_id, GATEWAYS)
        return await crowd.run(shots)

    with no_garbage_looked_for():
        return await asyncio.to_thread(uvloop.run, offer())


def _shots(stack: BenchStack, sale: Sale, rate: float, count: int) -> Iterator[PlannedRequest]:
    made = [grab_bytes(sale.sale_id, ticket) for ticket in stack.tickets(sale, count)]
    return (
        PlannedRequest(n / rate, payload, obedient=n % OBEDIENT_EVERY == 0)
        for n, payload in enumerate(made)
    )


def _then_gentle(
    shots: Iterator[PlannedRequest], rate: float, heavy: int
) -> Iterator[PlannedRequest]:
    for n, shot in enumerate(shots):
        shot.obedient = False
        if n >= heavy:
            shot.due_s = heavy / rate + (n - heavy) / GENTLE_RATE
        yield shot


def _excess(report: GeneratorReport, rate: float, burst: float) -> float:
    """Return the most that any interval had above rate * t + burst (below 0: it kept the bound).

    An interval holds the requests that were sent and answered within it; counted as those answered
    before its end less those sent before its start, which is never too many.
    """
    taken = [shot for shot in report.shots if shot.status == 202]
    starts = sorted(shot.sent_s for shot in taken)
    worst, lowest, i = float("-inf"), float("inf"), 0
    for j, end_s in enumerate(sorted(shot.answered_s for shot in taken)):
        while i < len(starts) and starts[i] <= end_s:
            lowest = min(lowest, i - rate * starts[i])
            i += 1
        worst = max(worst, (j + 1) - rate * end_s - lowest - burst)
    return worst


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    app()
