"""`sh scripts/locust`: a flash sale with a crowd of locust's, held against the ledger.

Private services, gateways and consumers, and a sale that opens some seconds later with a short time
to pay. People and bots come as in loadtest/locust_crowd/locustfile.py, from locust's own virtual
environment.
What they were told, locust says; what was sold, the ledger. Both have to be clean.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from config.settings import PROJECT_ROOT
from loadtest.findings import AsJson, Finding, ledger_finding, measure
from loadtest.locust_crowd.expectations import AnswerClass, Call
from loadtest.stack import HOME, BenchStack, bench_stack
from ops.processes.child import Child, Spec, log_tail
from ops.processes.ports import free_port
from seckill.consistency.verify import Ledger
from seckill.errors import SeckillError
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import TopUp
from seckill.sales.sales import Sale

LOCUST = PROJECT_ROOT / ".venv-load" / "bin" / "locust"
GATEWAYS, CONSUMERS = 2, 2
#: Beginning of the buyers' ids. Their wallets outlive a run.
BUYERS = "b"
#: From the start of locust to the opening: it needs some seconds until people come.
OPENS_IN_S = 12
#: Tickets are handed out so long before, so that those who come first are told to wait.
TICKET_LEAD_S = 5
#: Time to pay; short, so that units come back while the crowd is there.
WINDOW_S = 8
#: Longest wait for anything that should take seconds.
PATIENCE_S = 60.0
#: How often the sale is told about.
TELL_S = 3.0
NAMED_MAX = 3

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


class Line(msgspec.Struct):
    """A line of locust's table, or a kind of failure."""

    name: str
    count: int
    p50_ms: float = 0
    p99_ms: float = 0
    max_ms: float = 0


class CrowdResult(msgspec.Struct):
    """What the crowd was told, as loadtest/locust_crowd/locustfile.py reports it."""

    answers: list[Line]
    failures: list[Line]
    exceptions: list[Line]
    too_busy: bool

    def count(self, call: Call, outcome: AnswerClass) -> int:
        """Count the answers of one kind."""
        name = f"{call}: {outcome}"
        return sum(line.count for line in self.answers if line.name == name)


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """What is asked for."""

    users: int
    units: int
    seconds: int
    processes: int
    rate: int
    pay_share: float
    html: Path


@app.command()
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
    """Let a crowd loose on a sale that opens, and hold what it was told against the ledger."""
    plan = CrowdPlan(users, units, seconds, processes, rate, pay_share, html.resolve())
    say = _mute if as_json else _say
    measure(_measure(plan, say), as_json)


async def _measure(plan: CrowdPlan, say: Callable[[str], None]) -> list[Finding]:
    if not LOCUST.exists():
        raise SeckillError("locust is missing; type: sh scripts/setup-load")
    say("starting private services, gateways and consumers")
    async with bench_stack() as stack:
        cores, port = os.cpu_count() or 1, free_port()
        for n in range(GATEWAYS):
            await stack.run(
                "gateway", n % cores, port=port, SECKILL_TICKET_LEAD_S=str(TICKET_LEAD_S)
            )
        for n in range(CONSUMERS):
            await stack.run("consumers", n % cores)
        opens_at = datetime.now(UTC) + timedelta(seconds=OPENS_IN_S)
        sale = await stack.open_sale(units=plan.units, payment_window_s=WINDOW_S, opens_at=opens_at)
        await stack.limit(sale, plan.rate)
        await _fill_wallets(stack, plan, sale)
        say(
            f"sale {sale.sale_id}: {plan.units} units, {plan.users} people, opens in {OPENS_IN_S} s"
        )
        crowd, report = _crowd(stack, plan, sale, f"http://127.0.0.1:{port}")
        told = await _visit(stack, plan, sale, crowd, report, say)
        say("the crowd has left; waiting for unpaid orders to expire, and for quiet")
        books = await _settle(stack, sale)
        ended = crowd.describe_end()
    return _findings(plan, told, books, ended)


async def _fill_wallets(stack: BenchStack, plan: CrowdPlan, sale: Sale) -> None:
    """Give every buyer who may come the price of a unit."""
    # Locust deals people out evenly; a bot or a buyer more or less is due to rounding.
    each = plan.users // plan.processes + 2
    buyers = [f"{BUYERS}-{worker}-{n}" for worker in range(plan.processes) for n in range(each)]
    top_ups = [TopUp(new_tx_id(), buyer, sale.price_cents) for buyer in buyers]
    await wallets.top_up(stack.db, top_ups)


def _crowd(stack: BenchStack, plan: CrowdPlan, sale: Sale, url: str) -> tuple[Child, Path]:
    """Describe locust as a child, and where it will report."""
    report, port = HOME / "locust.json", str(free_port())
    report.unlink(missing_ok=True)
    plan.html.parent.mkdir(parents=True, exist_ok=True)
    options = {
        "--host": url,
        "--sale": sale.sale_id,
        "--buyers": BUYERS,
        "--pay-share": plan.pay_share,
        "--users": plan.users,
        "--run-time": f"{plan.seconds}s",
        "--processes": plan.processes,
        "--html": plan.html,
        "--report": report,
        "--master-bind-port": port,
        "--master-port": port,
    }
    spec = Spec(
        name="locust",
        argv=[LOCUST, "--headless", "--only-summary", *_flat(options.items())],
        # Here, for everybody on the machine can read a command line; and nothing else, for a
        # LOCUST_... of ours would make it another run.
        env={"SECKILL_JWT_KEYS": stack.credentials.jwt_keys, "PYTHONUTF8": "1"},
        cwd=PROJECT_ROOT,
        log=HOME / "logs" / "locust.log",
        pid_file=HOME / "run" / "locust.pid",
    )
    return Child(spec, asyncio.Event().wait), report


async def _visit(
    stack: BenchStack,
    plan: CrowdPlan,
    sale: Sale,
    crowd: Child,
    report: Path,
    say: Callable[[str], None],
) -> CrowdResult:
    """Let the crowd come, tell how it goes, and return what it was told."""
    await crowd.spawn()
    ended = asyncio.create_task(crowd.wait())
    deadline = time.monotonic() + plan.seconds + PATIENCE_S
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=TELL_S)
            say(await _state_of(stack, sale))
            if time.monotonic() > deadline:
                raise SeckillError(f"locust does not end{log_tail(crowd.spec.log)}")
    finally:
        await crowd.stop()
        await ended
    return _read(report, crowd)


def _read(report: Path, crowd: Child) -> CrowdResult:
    try:
        return msgspec.json.decode(report.read_bytes(), type=CrowdResult)
    except (OSError, msgspec.DecodeError):
        end = crowd.describe_end()
        raise SeckillError(f"locust {end} without a report{log_tail(crowd.spec.log)}") from None


async def _state_of(stack: BenchStack, sale: Sale) -> str:
    """Return a line about the sale for somebody who waits."""
    row = await stack.db.fetchrow(
        "SELECT available, frozen, sold FROM inventory WHERE sale_id = $1", sale.sale_id
    )
    opens_in_s = (sale.opens_at - datetime.now(UTC)).total_seconds() if sale.opens_at else 0
    if opens_in_s > 0:
        return f"opens in {opens_in_s:.0f} s: people gather"
    return (
        f"open for {-opens_in_s:.0f} s: {row['available']} units for sale, "
        f"{row['frozen']} in orders to be paid, {row['sold']} paid"
    )


async def _settle(stack: BenchStack, sale: Sale) -> Ledger:
    """Wait until no order is left to be paid, then for quiet; return the ledger."""
    deadline = time.monotonic() + WINDOW_S + PATIENCE_S
    while time.monotonic() < deadline:
        books = await stack.verify(sale, wait_s=0)
        if not (books.lines.get("orders pending") or books.lines.get("orders paying")):
            break
        await asyncio.sleep(0.5)
    return await stack.verify(sale, wait_s=PATIENCE_S)


def _findings(plan: CrowdPlan, told: CrowdResult, books: Ledger, ended: str) -> list[Finding]:
    lines = Counter(books.lines)
    won = told.count(Call.GRAB, AnswerClass.WON)
    paid = told.count(Call.PAY, AnswerClass.PAID)
    poor = told.count(Call.PAY, AnswerClass.NO_MONEY)
    orders = sum(count for name, count in lines.items() if name.startswith("orders "))
    in_books = sum(lines[f"orders {state}"] for state in ("paid", "refunding", "refunded"))
    # With so few units there is somebody for each of them; a crowd that never came proves nothing.
    least = min(plan.units, plan.users // 3)
    wrong = sorted([*told.failures, *told.exceptions], key=lambda line: -line.count)
    return [
        *(
            Finding(
                line.name,
                f"{line.count:,} x, p50 {line.p50_ms:.0f} ms, p99 {line.p99_ms:.0f} ms, "
                f"max {line.max_ms:.0f} ms",
            )
            for line in sorted(told.answers, key=lambda line: line.name)
        ),
        Finding("untrue or unexpected answers", _text(wrong), "0", not wrong),
        Finding("locust", ended, "exited with 0", ended == "exited with 0"),
        Finding("generator", "too busy: waits are its own, too" if told.too_busy else "kept up"),
        Finding("grabs won", f"{won:,}", f"at least {least:,}", won >= least),
        Finding("orders", f"{orders:,}", f"one for each of {won:,} won", orders >= won),
        Finding(
            "orders rejected", f"{lines['orders rejected']:,}", "0", not lines["orders rejected"]
        ),
        Finding("orders paid", f"{in_books:,}", f"each of {paid:,} told so", in_books >= paid),
        Finding("buyers without money", f"{poor:,}", "0", not poor),
        Finding("units", f"{lines['sold']:,} sold, {lines['available']:,} for sale again"),
        ledger_finding(books),
        Finding("report", os.path.relpath(plan.html)),
    ]


def _text(wrong: list[Line]) -> str:
    total = sum(line.count for line in wrong)
    named = [f"{line.count:,} x {line.name}" for line in wrong[:NAMED_MAX]]
    return "; ".join([f"{total:,}", *named])


def _flat(options: Iterable[tuple[str, object]]) -> list[str]:
    return [str(part) for option in options for part in option]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _mute(_: str) -> None:
    pass


if __name__ == "__main__":
    app()
