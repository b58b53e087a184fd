"""`python -m loadtest.crowd --rate R --seconds S`: an open-loop crowd, and its answers.

Grabs go out on a schedule, whatever becomes of those before them. They go to a stack of the run's
own, whose ledger is verified in the end, or with --url to a gateway that runs already. A run whose
generator did not keep up is invalid, and exits with 1.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from loadtest.crowd.grab_http import grab_bytes
from loadtest.crowd.offer import CONNECTIONS, offer, offer_grabs, read_tickets
from loadtest.crowd.requests import PlannedRequest
from loadtest.crowd.schedule import Arrivals, Schedule
from loadtest.findings import Finding, check_output, ledger_finding, measure, write_json
from loadtest.stack import UNITS, bench_stack
from ops.processes.ports import free_port


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """What a run's own stack consists of."""

    gateways: int
    consumers: int
    sales: int
    #: Units of each sale.
    units: int
    #: Gateways get one of these each, in turn; None for no pinning.
    gateway_cores: tuple[int, ...] | None
    #: Where stores, consumers and the generator run.
    other_cores: tuple[int, ...] | None


async def run_own(
    schedule: Schedule, plan: StackPlan, connections: int, json_file: Path | None
) -> list[Finding]:
    """Start a stack, offer it the schedule, and verify the ledger of each sale."""
    async with bench_stack(plan.other_cores) as stack:
        port, cores = free_port(), itertools.cycle(plan.gateway_cores or [None])
        for core in itertools.islice(cores, plan.gateways):
            gateway = await stack.run("gateway", core, port=port)
        for _ in range(plan.consumers):
            await stack.run("consumers", plan.other_cores)
        sales = [await stack.open_sale(units=plan.units) for _ in range(plan.sales)]
        options = {"gateways": plan.gateways, "connections": connections}
        report = await offer_grabs(
            stack, gateway.url, sales, schedule, cores=plan.other_cores, **options
        )
        ledgers = [await stack.verify(sale) for sale in sales]
        stores = await stack.versions()
    wrong = [ledger for ledger in ledgers if not ledger.balanced]
    placed = sum(ledger.lines.get("orders pending", 0) for ledger in ledgers)
    name = f"ledger of {len(ledgers):,} sale{'s' if len(ledgers) > 1 else ''}, {placed:,} orders"
    findings = [*report.findings(), replace(ledger_finding((wrong or ledgers)[0]), name=name)]
    options |= asdict(schedule) | asdict(plan)
    write_json(json_file, "crowd", stores, options, findings, report.plain())
    return findings


async def run_at(
    schedule: Schedule, url: str, sale: str, tickets: Path, connections: int, json_file: Path | None
) -> list[Finding]:
    """Offer the schedule to a gateway that runs already, with the tickets of a file."""
    dues = schedule.due_times()
    requests = [
        PlannedRequest(due_s, grab_bytes(sale, ticket))
        for due_s, ticket in zip(dues, read_tickets(tickets, len(dues)), strict=True)
    ]
    report = await offer(url, requests, schedule.seconds, sale_ids=[sale], connections=connections)
    findings = report.findings()
    options = asdict(schedule) | {"url": url, "sale": sale, "connections": connections}
    write_json(json_file, "crowd", {}, options, findings, report.plain())
    return findings


def _cores(text: str | None) -> tuple[int, ...] | None:
    """Read "0,2" as cores of this machine."""
    if text is None:
        return None
    ours = os.sched_getaffinity(0)
    cores = tuple(int(part) if part.strip().isdecimal() else -1 for part in text.split(","))
    if not ours.issuperset(cores):
        have = ",".join(map(str, sorted(ours)))
        raise typer.BadParameter(f"{text}: give some of the cores {have}, comma-separated")
    return cores


def main(
    rate: Annotated[float, typer.Option(help="Grabs a second, on average.", min=0.1)],
    seconds: Annotated[float, typer.Option(help="How long they come.", min=0.1)],
    arrivals: Annotated[Arrivals, typer.Option(help="How they are spread.")] = Arrivals.EVEN,
    seed: Annotated[int, typer.Option(help="Of the chance in poisson.")] = 1,
    connections: Annotated[int, typer.Option(help="At most.", min=1)] = CONNECTIONS,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="File for figures and time series.", callback=check_output),
    ] = None,
    gateways: Annotated[int, typer.Option(help="Gateways, on one port.", min=1)] = 1,
    consumers: Annotated[int, typer.Option(help="Consumers.", min=1)] = 1,
    sales: Annotated[int, typer.Option(help="Sales that the grabs take in turn.", min=1)] = 1,
    units: Annotated[int, typer.Option(help="Units of each sale.", min=1, max=UNITS)] = UNITS,
    gateway_cores: Annotated[
        str | None, typer.Option(help="Cores like 0,1, one for each gateway, in turn; else any.")
    ] = None,
    other_cores: Annotated[
        str | None, typer.Option(help="Cores of stores, consumers and generator; else any.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A gateway that runs already.")] = None,
    tickets: Annotated[
        Path | None, typer.Option(help="With --url: file of `seckill ticket SALE --count N`.")
    ] = None,
    sale: Annotated[str | None, typer.Option(help="With --url: the sale of the tickets.")] = None,
) -> None:
    """Offer grabs on a schedule; report the answers to them and how long they waited."""
    schedule = Schedule(rate=rate, seconds=seconds, arrivals=arrivals, seed=seed)
    if url is None and tickets is None and sale is None:
        plan = StackPlan(
            gateways=gateways,
            consumers=consumers,
            sales=sales,
            units=units,
            gateway_cores=_cores(gateway_cores),
            other_cores=_cores(other_cores),
        )
        work = run_own(schedule, plan, connections, json_file)
    elif url is None or tickets is None or sale is None:
        raise typer.BadParameter("--url, --tickets and --sale go together: give all three or none")
    else:
        work = run_at(schedule, url, sale, tickets, connections, json_file)
    measure(work)


if __name__ == "__main__":
    typer.run(main)
