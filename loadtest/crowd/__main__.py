"""`python -m loadtest.crowd --rate R --seconds S`: an open-loop crowd, and its answers.

Grabs go out on a schedule, whatever becomes of those before them. They go to a stack of the run's
own, whose ledger is verified in the end, or with --url to a gateway that runs already. A run whose
generator did not keep up is invalid, and exits with 1.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.crowd.generator import END_AFTER_S
from loadtest.crowd.generator_processes import offer_each
from loadtest.crowd.grab_http import HttpForm, grab_bytes
from loadtest.crowd.offer import CONNECTIONS, offer, plan_grabs, read_tickets
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import NoAnswer, PlannedRequest
from loadtest.crowd.schedule import Arrivals, Schedule
from loadtest.findings import Finding, check_output, ledger_finding, measure, write_json
from loadtest.stack import UNITS, Cores, bench_stack
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


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorPlan:
    """How the grabs are offered."""

    connections: int
    connection_each: bool
    http: HttpForm
    #: None: END_AFTER_S after the last grab the run is over.
    patience_s: float | None
    processes: int

    async def offer(
        self,
        url: str,
        requests: Sequence[PlannedRequest],
        seconds: float,
        *,
        sale_ids: Sequence[str],
        gateways: int = 1,
        cores: Cores = None,
    ) -> CrowdReport:
        """Offer grabs on connections that stay, or on one for each."""
        common: dict[str, Any] = {"sale_ids": sale_ids, "gateways": gateways, "cores": cores}
        if self.connection_each:
            patience_s = self.patience_s or END_AFTER_S
            common |= {"patience_s": patience_s, "processes": self.processes}
            return await offer_each(url, requests, seconds, **common)
        common |= {"patience_s": self.patience_s, "connections": self.connections}
        return await offer(url, requests, seconds, **common)

    def findings(self, report: CrowdReport) -> list[Finding]:
        """Return what is to be reported: with a connection each, a refused one is an answer."""
        allowed = (NoAnswer.REFUSED, NoAnswer.RESET) if self.connection_each else ()
        return report.findings(*allowed)


async def run_own(
    schedule: Schedule, plan: StackPlan, generator: GeneratorPlan, json_file: Path | None
) -> list[Finding]:
    """Start a stack, offer it the schedule, and verify the ledger of each sale."""
    async with bench_stack(plan.other_cores) as stack:
        port, cores = free_port(), itertools.cycle(plan.gateway_cores or [None])
        for core in itertools.islice(cores, plan.gateways):
            gateway = await stack.run("gateway", core, port=port)
        for _ in range(plan.consumers):
            await stack.run("consumers", plan.other_cores)
        sales = [await stack.open_sale(units=plan.units) for _ in range(plan.sales)]
        report = await generator.offer(
            gateway.url,
            plan_grabs(stack, sales, schedule.due_times(), form=generator.http),
            schedule.seconds,
            sale_ids=[sale.sale_id for sale in sales],
            gateways=plan.gateways,
            cores=plan.other_cores,
        )
        ledgers = [await stack.verify(sale) for sale in sales]
        stores = await stack.versions()
    wrong = [ledger for ledger in ledgers if not ledger.balanced]
    placed = sum(ledger.lines.get("orders pending", 0) for ledger in ledgers)
    name = f"ledger of {len(ledgers):,} sale{'s' if len(ledgers) > 1 else ''}, {placed:,} orders"
    ledger = replace(ledger_finding((wrong or ledgers)[0]), name=name)
    findings = [*generator.findings(report), ledger]
    options = asdict(schedule) | asdict(generator) | asdict(plan)
    write_json(json_file, "crowd", stores, options, findings, report.plain())
    return findings


async def run_at(
    schedule: Schedule,
    url: str,
    sale: str,
    tickets: Path,
    generator: GeneratorPlan,
    json_file: Path | None,
) -> list[Finding]:
    """Offer the schedule to a gateway that runs already, with the tickets of a file."""
    dues = schedule.due_times()
    requests = [
        PlannedRequest(due_s, grab_bytes(sale, ticket, generator.http))
        for due_s, ticket in zip(dues, read_tickets(tickets, len(dues)), strict=True)
    ]
    report = await generator.offer(url, requests, schedule.seconds, sale_ids=[sale])
    findings = generator.findings(report)
    options = asdict(schedule) | asdict(generator) | {"url": url, "sale": sale}
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
    connection_each: Annotated[
        bool, typer.Option("--connection-each", help="Each buyer opens one for their grab.")
    ] = False,
    http: Annotated[
        HttpForm, typer.Option(help="With --connection-each: what the grabs say of it.")
    ] = HttpForm.KEEP_ALIVE,
    patience: Annotated[
        float | None, typer.Option(help="Seconds after which a buyer gives up.", min=0.1)
    ] = None,
    processes: Annotated[
        int, typer.Option(help="With --connection-each: of the generator.", min=1)
    ] = 1,
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
    if not connection_each and (http is not HttpForm.KEEP_ALIVE or processes > 1):
        raise typer.BadParameter("--http and --processes need --connection-each")
    generator = GeneratorPlan(
        connections=connections,
        connection_each=connection_each,
        http=http,
        patience_s=patience,
        processes=processes,
    )
    if url is None and tickets is None and sale is None:
        plan = StackPlan(
            gateways=gateways,
            consumers=consumers,
            sales=sales,
            units=units,
            gateway_cores=_cores(gateway_cores),
            other_cores=_cores(other_cores),
        )
        work = run_own(schedule, plan, generator, json_file)
    elif url is None or tickets is None or sale is None:
        raise typer.BadParameter("--url, --tickets and --sale go together: give all three or none")
    else:
        work = run_at(schedule, url, sale, tickets, generator, json_file)
    measure(work)


if __name__ == "__main__":
    typer.run(main)
