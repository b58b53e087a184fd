"""`python -m loadtest.drills.outages postgresql|ladder|flush`: what an operator fears.

Each drill breaks something under load, lets it recover, and compares the answers that buyers got
with the ledger.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from itertools import pairwise
from typing import Annotated

import typer

from loadtest.crowd.offer import offer_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.schedule import Schedule
from loadtest.findings import AsJson, Finding, all_of, ledger_finding, measure
from loadtest.stack import BenchStack, Process, bench_stack
from seckill import audit
from seckill.adapters import topology
from seckill.consistency.rebuild import Rebuild
from seckill.dead_letters import resolution, store
from seckill.dead_letters.store import DeadLetter, LetterFilter
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

CONNECTIONS = 200
#: A sale that does not sell out while it is drilled.
UNITS = 1_000_000
#: Before something is broken, and after it was mended, everything works as always.
CALM_S = 5.0
#: Each retry waits its delay, give or take this share.
RETRY_SPREAD = 0.1

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Rate = Annotated[int, typer.Option(help="Grabs a second.", min=10)]


@app.command()
def postgresql(
    rate: Rate = 300,
    seconds: Annotated[int, typer.Option(help="How long it is down.", min=1)] = 30,
    as_json: AsJson = False,
) -> None:
    """Stop PostgreSQL under load, and start it again."""
    measure(_postgresql(rate, seconds), as_json)


async def _postgresql(rate: int, seconds: int) -> list[Finding]:
    async with bench_stack() as stack:
        gateway, sale = await _shop(stack)
        offered = asyncio.create_task(_offer(stack, gateway, sale, rate, seconds + 2 * CALM_S))
        await asyncio.sleep(CALM_S)
        await stack.services.stop("postgresql")
        await asyncio.sleep(seconds)
        waiting = await stack.messages(topology.ORDERS_PLACE)
        await stack.services.start("postgresql")
        up_at = time.monotonic()
        report = await offered
        ledger = await stack.verify(sale)
        quiet_s = time.monotonic() - up_at
        dead = sum([await stack.messages(topology.dead(q)) for q in topology.WORK_QUEUES])
        retried = sum([await stack.messages(topology.retry(s)) for s in topology.RETRY_DELAYS_S])
    return [
        report.answers_finding(202),
        Finding("messages waiting when it was up again", f"{waiting:,}"),
        Finding("everything placed after", f"{quiet_s:.1f} s (of load {CALM_S:g} s)"),
        Finding("dead, or in a retry queue", f"{dead}, {retried}", "0, 0", not dead + retried),
        all_of("orders pending", ledger.lines["orders pending"], len(report.answered(202))),
        ledger_finding(ledger),
        report.late_finding(),
    ]


@app.command()
def ladder(as_json: AsJson = False) -> None:
    """Let an order fail through all retry queues, and replay it once the fault is mended."""
    measure(_ladder(), as_json)


async def _ladder() -> list[Finding]:
    async with bench_stack() as stack:
        gateway, sale = await _shop(stack)
        await stack.db.execute(
            f"CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.sale_id = '{sale.sale_id}' AND NEW.buyer_id = 'b0' THEN"
            f" RAISE EXCEPTION 'a trigger objects'; END IF; RETURN NEW; END $$;"
            f" CREATE TRIGGER object BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION object()"
        )
        try:
            report = await _offer(stack, gateway, sale, 10, 1)
            letter = await _open_letter(stack, sale)
        finally:
            await stack.db.execute("DROP TRIGGER object ON orders; DROP FUNCTION object()")
        waits = _retry_waits(stack, letter.reason)
        ending = await resolution.replay(
            stack.db, stack.publisher, letter.letter_id, actor=audit.operator_name()
        )
        ledger = await stack.verify(sale)
    attempts = len(topology.RETRY_DELAYS_S) + 1
    return [
        report.answers_finding(202),
        _waits_finding(waits),
        Finding(
            "dead letter",
            f"{letter.attempts} attempts, {len(letter.orders)} order: {letter.reason}",
            f"{attempts} attempts",
            letter.attempts == attempts,
        ),
        Finding("replay", ending, "replayed", ending == "replayed"),
        all_of("orders pending", ledger.lines["orders pending"], len(report.answered(202))),
        ledger_finding(ledger),
    ]


def _waits_finding(waits: list[float]) -> Finding:
    bounds = [((1 - RETRY_SPREAD) * s, (1 + RETRY_SPREAD) * s) for s in topology.RETRY_DELAYS_S]
    text = ", ".join(f"{wait:.2f} s" for wait in waits)
    promised = ", ".join(f"{low:g} .. {high:g}" for low, high in bounds) + " s"
    in_time = len(waits) == len(bounds) and all(
        low <= wait <= high for (low, high), wait in zip(bounds, waits, strict=True)
    )
    return Finding("waits", text, promised, in_time)


async def _open_letter(stack: BenchStack, sale: Sale) -> DeadLetter:
    """Wait for an open dead letter of the sale."""
    deadline = time.monotonic() + 2 * sum(topology.RETRY_DELAYS_S)
    while not (found := await store.page(stack.db, LetterFilter(sale_id=sale.sale_id), limit=1)):
        if time.monotonic() > deadline:
            raise SeckillError("no dead letter came")
        await asyncio.sleep(0.2)
    return found[0]


def _retry_waits(stack: BenchStack, reason: str) -> list[float]:
    """Read off the consumer's log how long the message waited between its attempts."""
    log = stack.children[-1].spec.log
    lines = log.read_text().splitlines() if log else []
    failed = [line for line in lines if line.endswith(reason) and topology.ORDERS_PLACE in line]
    times = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in failed]
    return [(after - before).total_seconds() for before, after in pairwise(times)]


@app.command()
def flush(
    rate: Rate = 300,
    units: Annotated[int, typer.Option(help="Units for sale.", min=10)] = 2_000,
    as_json: AsJson = False,
) -> None:
    """Empty Redis in mid-sale, under load, and rebuild the sale."""
    measure(_flush(rate, units), as_json)


async def _flush(rate: int, units: int) -> list[Finding]:
    """Offer twice the stock, half of it after the rebuild; no buyer grabs twice."""
    seconds = 2 * units / rate
    async with bench_stack() as stack:
        gateway, _ = await _shop(stack)
        sale = await stack.open_sale(units=units)
        offered = asyncio.create_task(_offer(stack, gateway, sale, rate, seconds))
        await asyncio.sleep(seconds / 4)
        await stack.redis.flushall()
        emptied_at = time.monotonic()
        await asyncio.sleep(CALM_S)
        rebuild = Rebuild(stack.redis, stack.db)
        reasons = await rebuild.fence([sale.sale_id])
        rebuilt = await rebuild.run(
            sale.sale_id, actor=audit.operator_name(), reason=reasons[sale.sale_id]
        )
        empty_s = time.monotonic() - emptied_at
        report = await offered
        ledger = await stack.verify(sale)
        rows = await stack.db.fetch(
            "SELECT coalesce(state || ' ' || reason, state) AS state, count(*) FROM orders"
            " WHERE sale_id = $1 GROUP BY 1 ORDER BY 1",
            sale.sale_id,
        )
    won, states = len(report.answered(202)), dict(rows)
    known = states.keys() <= {"pending", "rejected epoch"}
    all_rows = sum(states.values()) == won and known
    return [
        report.answers_finding(202, 409, 503),
        Finding("Redis empty, then rebuilt", f"{empty_s:.1f} s; {rebuilt.stock:,} units left"),
        Finding("rows", ", ".join(f"{count:,} x {state}" for state, count in states.items())),
        Finding("each 202 has a row", f"{sum(states.values()):,} of {won:,}", "all", all_rows),
        all_of("orders pending", states["pending"], units),
        ledger_finding(ledger),
        report.late_finding(),
    ]


async def _shop(stack: BenchStack) -> tuple[Process, Sale]:
    """Start a gateway and a consumer, and open a sale."""
    return await stack.gateway(consumers=1), await stack.open_sale(units=UNITS)


async def _offer(
    stack: BenchStack, gateway: Process, sale: Sale, rate: int, seconds: float
) -> CrowdReport:
    schedule = Schedule(rate=rate, seconds=seconds)
    return await offer_grabs(stack, gateway.url, [sale], schedule, connections=CONNECTIONS)


if __name__ == "__main__":
    app()
