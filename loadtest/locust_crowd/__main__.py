"""`sh scripts/locust`: a flash sale with a crowd of locust's, compared with the ledger.

Private services, gateways and consumers, and a sale that opens some seconds later with a short time
to pay. Buyers and bots come as in loadtest/locust_crowd/locustfile.py, from locust's own virtual
environment. Locust reports the answers that they got; the ledger, what was sold. Both have to be
clean.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from config.settings import PROJECT_ROOT
from loadtest.findings import AsJson, Finding, ledger_finding, measure, none_of
from loadtest.stack import HOME, PATIENCE_S, BenchStack, bench_stack
from ops.processes.child import Child, Spec, log_tail
from ops.processes.ports import free_port
from seckill.consistency.verify import Ledger
from seckill.errors import SeckillError
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import TopUp
from seckill.sales.sales import Sale

LOCUST = PROJECT_ROOT / ".venv-load" / "bin" / "locust"
REPORT = HOME / "locust.json"
GATEWAYS, CONSUMERS = 2, 2
#: Beginning of the buyers' ids. Their wallets outlive a run.
BUYERS = "b"
#: From the start of locust to the opening: it needs some seconds until users come.
OPENS_IN_S = 12
#: Tickets are handed out so long before, so that those who come first are too early.
TICKET_LEAD_S = 5
#: Time to pay; short, so that units come back while the crowd is there.
WINDOW_S = 8
#: How often the state of the sale is printed.
STATE_S = 3.0
NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """The options of a run."""

    users: int
    units: int
    seconds: int
    processes: int
    rate: int
    pay_share: float
    html: Path
    #: Prints a line for a person who waits.
    show_state: Callable[[str], None]


def main(
    users: Annotated[int, typer.Option(help="People, one in 21 a bot.", min=20, max=5_000)] = 300,
    units: Annotated[int, typer.Option(help="Units for sale.", min=1)] = 100,
    seconds: Annotated[
        int, typer.Option(help="Length of the crowd's visit.", min=30, max=600)
    ] = 40,
    processes: Annotated[int, typer.Option(help="Processes of locust.", min=1, max=16)] = 2,
    rate: Annotated[int, typer.Option(help="The sale's limit, grabs a second.", min=1)] = 50,
    pay_share: Annotated[float, typer.Option(help="Share of winners who pay.", min=0, max=1)] = 0.7,
    html: Annotated[Path, typer.Option(help="Locust's report.", dir_okay=False)] = HOME
    / "locust.html",
    as_json: AsJson = False,
) -> None:
    """Send a crowd to a sale that opens, and compare the answers that it gets with the ledger."""
    show_state = (lambda _: None) if as_json else partial(print, file=sys.stderr)
    plan = CrowdPlan(users, units, seconds, processes, rate, pay_share, html.resolve(), show_state)
    measure(_measure(plan), as_json)


async def _measure(plan: CrowdPlan) -> list[Finding]:
    if not LOCUST.exists():
        raise SeckillError("locust is missing; type: sh scripts/setup-load")
    plan.show_state("starting private services, gateways and consumers")
    async with bench_stack() as stack:
        cores, port = os.cpu_count() or 1, free_port()
        lead = {"SECKILL_TICKET_LEAD_S": str(TICKET_LEAD_S)}
        for n in range(GATEWAYS):
            gateway = await stack.run("gateway", n % cores, port=port, **lead)
        for n in range(CONSUMERS):
            await stack.run("consumers", n % cores)
        opens_at = datetime.now(UTC) + timedelta(seconds=OPENS_IN_S)
        sale = await stack.open_sale(units=plan.units, payment_window_s=WINDOW_S, opens_at=opens_at)
        await stack.limit(sale, plan.rate)
        await _fill_wallets(stack, plan, sale)
        plan.show_state(f"sale {sale.sale_id}: {plan.units} units, {plan.users} users")
        locust = _locust(stack, plan, sale, gateway.url)
        report = await _visit(stack, plan, sale, locust)
        plan.show_state("the crowd has left; waiting for unpaid orders to expire, and for quiet")
        unpaid = "SELECT FROM orders WHERE sale_id = $1 AND state IN ('pending', 'paying')"
        await stack.until(f"SELECT NOT EXISTS ({unpaid})", sale, "unpaid orders do not expire")
        ledger = await stack.verify(sale)
    return _findings(plan, report, ledger, locust.describe_end())


async def _fill_wallets(stack: BenchStack, plan: CrowdPlan, sale: Sale) -> None:
    """Give every buyer who may come the price of a unit."""
    # Locust spreads users evenly over its processes; a user more or less is due to rounding.
    each = plan.users // plan.processes + 2
    buyers = [f"{BUYERS}-{worker}-{n}" for worker in range(plan.processes) for n in range(each)]
    top_ups = [TopUp(new_tx_id(), buyer, sale.price_cents) for buyer in buyers]
    await wallets.top_up(stack.db, top_ups)


def _locust(stack: BenchStack, plan: CrowdPlan, sale: Sale, url: str) -> Child:
    """Describe locust as a child process."""
    REPORT.unlink(missing_ok=True)
    plan.html.parent.mkdir(parents=True, exist_ok=True)
    port = free_port()
    spec = Spec(
        name="locust",
        argv=[
            *(LOCUST, "--headless", "--only-summary", f"--host={url}", f"--sale={sale.sale_id}"),
            *(f"--buyers={BUYERS}", f"--pay-share={plan.pay_share}", f"--users={plan.users}"),
            *(f"--run-time={plan.seconds}s", f"--processes={plan.processes}"),
            *(f"--html={plan.html}", f"--report={REPORT}"),
            *(f"--master-bind-port={port}", f"--master-port={port}"),
        ],
        # Keys are here, for every user of the machine can read a command line; and nothing else is,
        # for a LOCUST_... of ours would make it another run.
        env={"SECKILL_JWT_KEYS": stack.credentials.jwt_keys, "PYTHONUTF8": "1"},
        cwd=PROJECT_ROOT,
        log=HOME / "logs" / "locust.log",
        pid_file=HOME / "run" / "locust.pid",
    )
    return Child(spec, asyncio.Event().wait)


async def _visit(stack: BenchStack, plan: CrowdPlan, sale: Sale, locust: Child) -> dict[str, Any]:
    """Let the crowd come, and return what locustfile.py reports."""
    await locust.spawn()
    ended = asyncio.create_task(locust.wait())
    deadline = time.monotonic() + plan.seconds + PATIENCE_S
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=STATE_S)
            plan.show_state(await _state_of(stack, sale))
            if time.monotonic() > deadline:
                raise SeckillError(f"locust does not end{log_tail(locust.spec.log)}")
    finally:
        await locust.stop()
        await ended
    if not REPORT.exists():
        end = locust.describe_end()
        raise SeckillError(f"locust {end} without a report{log_tail(locust.spec.log)}")
    report: dict[str, Any] = json.loads(REPORT.read_text())
    return report


async def _state_of(stack: BenchStack, sale: Sale) -> str:
    opens_in_s = (sale.opens_at - datetime.now(UTC)).total_seconds() if sale.opens_at else 0
    if opens_in_s > 0:
        return f"opens in {opens_in_s:.0f} s: users gather"
    query = "SELECT available, frozen, sold FROM inventory WHERE sale_id = $1"
    available, frozen, sold = await stack.db.fetchrow(query, sale.sale_id)
    units = f"{available} units for sale, {frozen} in orders to be paid, {sold} paid"
    return f"open for {-opens_in_s:.0f} s: {units}"


def _findings(plan: CrowdPlan, report: dict[str, Any], ledger: Ledger, ended: str) -> list[Finding]:
    answers, lines, findings = report["answers"], Counter(ledger.lines), []
    for name, line in sorted(answers.items()):
        waits = ", ".join(
            f"{share} {line[f'{share}_ms']:.0f} ms" for share in ("p50", "p99", "max")
        )
        findings.append(Finding(name, f"{line['count']:,} x, {waits}"))
    counts = Counter({name: line["count"] for name, line in answers.items()})
    won, paid = counts["grab: 202"], counts["pay: 200"]
    orders = sum(count for name, count in lines.items() if name.startswith("orders "))
    orders_paid = sum(lines[f"orders {state}"] for state in ("paid", "refunding", "refunded"))
    # With so few units there is a buyer for each; a crowd that never came proves nothing.
    least = min(plan.units, plan.users // 3)
    failures = Counter(report["failures"])
    named = [f"{count:,} x {name}" for name, count in failures.most_common(NAMED_MAX)]
    wrong = "; ".join([f"{failures.total():,}", *named])
    generator = "too busy: waits are its own, too" if report["too_busy"] else "kept up"
    return [
        *findings,
        Finding("untrue or unexpected answers", wrong, "0", not failures),
        Finding("locust", ended, "exited with 0", ended == "exited with 0"),
        Finding("generator", generator),
        Finding("grabs won", f"{won:,}", f"at least {least:,}", won >= least),
        Finding("orders", f"{orders:,}", f"one for each of {won:,} won", orders >= won),
        none_of("orders rejected", lines["orders rejected"]),
        Finding("orders paid", f"{orders_paid:,}", f"all {paid:,} payments", orders_paid >= paid),
        none_of("buyers without money", counts["pay: 402 insufficient_funds"]),
        Finding("units", f"{lines['sold']:,} sold, {lines['available']:,} for sale again"),
        ledger_finding(ledger),
        Finding("report", os.path.relpath(plan.html)),
    ]


if __name__ == "__main__":
    typer.run(main)
