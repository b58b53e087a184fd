"""`python -m loadtest.drills.overload limit|overload`: more load than a gateway takes.

`limit` offers grabs to four gateways at ten times a sale's rate limit, and reports what was
accepted against the bound, and what became of buyers who came back after Retry-After.
`overload` offers one gateway three times what it can answer, and reports the wait of the answered,
the refusals, the recovery and the memory.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.wrk import CONNECTIONS, grabs_per_second
from loadtest.crowd.offer import offer, plan_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.findings import AsJson, Finding, ledger_finding, measure
from loadtest.stack import OTHER_CORE, TESTED_CORE, bench_stack
from ops.processes.ports import free_port
from seckill.sales.rate_limits import SaleLimit

GATEWAYS = 4
#: Times the limit that is offered.
LIMIT_FACTOR = 10
#: One buyer in so many comes back after Retry-After, unless that is more than this.
OBEDIENT_EVERY, OBEY_WITHIN_S = 20, 120.0
CONNECTIONS_MAX = 4_000
#: After an overload, requests at this gentle rate show when all is well again.
GENTLE_RATE, GENTLE_S = 100, 4.0
#: A gentle request that waits longer still suffers from the overload.
TROUBLED_S = 0.25

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def limit(
    rate: Annotated[int, typer.Option(help="The sale's limit, grabs a second.", min=1)] = 100,
    grabs: Annotated[int, typer.Option(help="Grabs to offer.", min=100)] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Offer ten times the limit to four gateways."""
    measure(_limit(rate, grabs), as_json)


async def _limit(rate: int, grabs: int) -> list[Finding]:
    async with bench_stack() as stack:
        port = free_port()
        for n in range(GATEWAYS):
            gateway = await stack.run("gateway", n % (os.cpu_count() or 1), port=port)
        await stack.run("consumers", OTHER_CORE)
        sale = await stack.open_sale()
        bound = await stack.limit(sale, rate)
        offered = LIMIT_FACTOR * rate
        requests = plan_grabs(stack, [sale], [n / offered for n in range(grabs)])
        for request in requests[::OBEDIENT_EVERY]:
            request.obeys_within_s = OBEY_WITHIN_S
        report = await offer(
            gateway.url,
            requests,
            grabs / offered,
            sale_ids=[sale.sale_id],
            gateways=GATEWAYS,
            connections=CONNECTIONS_MAX,
        )
        ledger = await stack.verify(sale)
    return [*_limit_findings(report, bound, offered), ledger_finding(ledger)]


def _limit_findings(report: CrowdReport, bound: SaleLimit, offered: int) -> list[Finding]:
    first = [request for request in report.requests if not request.comes_back]
    back = [request for request in report.requests if request.comes_back]
    returned = sum(request.status == 202 for request in back)
    # Each grab of the offered load lies between its first request and its last answer.
    span_s = max(request.answered_s for request in first)
    count = sum(1 for request in report.answered(202) if request.answered_s <= span_s)
    most = bound.rate * span_s + bound.burst
    excess = _excess(report, bound.rate, bound.burst)
    waits = [request.retry_after_s for request in first if request.status == 429]
    p50, p99 = (report.latency_ms(share, 429) for share in (0.5, 0.99))
    return [
        Finding("offered", f"{len(first):,} grabs at {offered:,}/s, and {len(back):,} returns"),
        report.answers_finding(202, 429),
        Finding(
            "accepted while it was offered",
            f"{count:,} of at most {most:,.1f} ({100 * (most - count) / most:.2f} % under)",
            "0 to 2 % under",
            0 <= most - count <= 0.02 * most,
        ),
        Finding(
            "largest excess of any interval", f"{excess:.1f} grabs", "none above 0", excess <= 0
        ),
        Finding("Retry-After", f"{min(waits)} .. {max(waits)} s" if waits else "none"),
        Finding(
            f"came back after Retry-After (of up to {OBEY_WITHIN_S:g} s)",
            f"{returned:,} of {len(back):,} accepted",
            "all",
            returned == len(back) > 0,
        ),
        Finding("wait for a 429", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"),
        report.late_finding(),
    ]


def _excess(report: CrowdReport, rate: float, burst: float) -> float:
    """Return the most that any interval had above rate * t + burst (below 0: it kept the bound).

    An interval holds the requests that were sent and answered within it; counted as those answered
    before its end less those sent before its start, which is never too many.
    """
    accepted = report.answered(202)
    starts = sorted(request.sent_s for request in accepted)
    worst, lowest, i = float("-inf"), float("inf"), 0
    for j, end_s in enumerate(sorted(request.answered_s for request in accepted)):
        while i < len(starts) and starts[i] <= end_s:
            lowest = min(lowest, i - rate * starts[i])
            i += 1
        worst = max(worst, (j + 1) - rate * end_s - lowest - burst)
    return worst


@app.command()
def overload(
    seconds: Annotated[int, typer.Option(help="Length of the overload.", min=5)] = 60,
    factor: Annotated[float, typer.Option(help="Times the capacity to offer.", min=0.1)] = 3.0,
    connections: Annotated[
        int, typer.Option(help="The generator's connections.", min=1)
    ] = CONNECTIONS_MAX,
    as_json: AsJson = False,
) -> None:
    """Offer one gateway, by default, three times what it can answer."""
    measure(_overload(seconds, factor, connections), as_json)


async def _overload(seconds: int, factor: float, connections: int) -> list[Finding]:
    async with bench_stack(OTHER_CORE) as stack:
        gateway = await stack.run("gateway", TESTED_CORE)
        free = await stack.gateway()
        capacity = await grabs_per_second(stack, free.url, 5)
        await free.child.stop()
        offered, sale = int(factor * capacity), await stack.open_sale()
        dues = [n / offered for n in range(offered * seconds)]
        dues += [seconds + n / GENTLE_RATE for n in range(int(GENTLE_RATE * GENTLE_S))]
        requests = plan_grabs(stack, [sale], dues)
        pid = gateway.child.pid or 0
        before_mb = peak_mb = resident_mb(pid)
        run = asyncio.create_task(
            offer(
                gateway.url,
                requests,
                seconds + GENTLE_S,
                sale_ids=[sale.sale_id],
                connections=connections,
            )
        )
        while not run.done():
            peak_mb = max(peak_mb, resident_mb(pid))
            await asyncio.wait({run}, timeout=0.5)
        report, after_mb = await run, resident_mb(pid)
        await stack.drop_queue()
    memory = f"{before_mb:.0f} MB before, {peak_mb:.0f} MB at most, {after_mb:.0f} MB after"
    return [
        Finding("capacity", f"{capacity:,.0f} grabs/s (closed loop, {CONNECTIONS} connections)"),
        Finding("offered", f"{offered:,}/s for {seconds} s, open loop"),
        *_overload_findings(report, seconds),
        Finding("resident memory", memory),
        report.late_finding(),
    ]


def _overload_findings(report: CrowdReport, seconds: int) -> list[Finding]:
    heavy = CrowdReport(seconds, [r for r in report.requests if r.due_s < seconds])
    last_s = max(
        (
            request.due_s - seconds
            for request in report.requests
            if request.due_s >= seconds and (request.status != 202 or request.wait_s > TROUBLED_S)
        ),
        default=0.0,
    )
    p50, p99, longest = (heavy.latency_ms(share, 202) for share in (0.5, 0.99, 1))
    refused_p50, refused_p99 = (heavy.latency_ms(share, 503) for share in (0.5, 0.99))
    return [
        heavy.answers_finding(202, 503),
        Finding("answered 202", f"{len(heavy.answered(202)) / seconds:,.0f} grabs/s"),
        Finding(
            "wait for a 202",
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {longest:.0f} ms",
            "p99 under 250 ms",
            0 < p99 < 250,  # 0: there was no 202
        ),
        Finding("wait for a 503", f"p50 {refused_p50:.0f} ms, p99 {refused_p99:.0f} ms"),
        Finding("last trouble after the end", f"{last_s:.2f} s", "within 2 s", last_s < 2),
    ]


def resident_mb(pid: int) -> float:
    """Return how much memory a process has resident, in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    app()
