"""`python -m loadtest.drills.outages postgresql|ladder|flush`: what an operator fears.

Each drill breaks something under load, lets it recover, and holds what buyers were told against
the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Annotated

import typer
import uvloop

from config.settings import PROJECT_ROOT
from loadtest.crowd.generator import Crowd, GeneratorReport, PlannedRequest, grab_bytes
from loadtest.crowd.report import generator
from loadtest.findings import Finding, Json, ledger_finding, measure, show, told_text
from loadtest.stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, BenchStack, Process, bench_stack
from seckill import audit
from seckill.adapters import topology
from seckill.consistency.rebuild import Rebuild
from seckill.dead_letters import resolution, store
from seckill.dead_letters.store import DeadLetter, LetterFilter
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

HOME = PROJECT_ROOT / ".seckill" / "bench"
CONNECTIONS = 200
#: A sale that does not sell out while it is drilled.
UNITS = 1_000_000
#: Before something is broken, and after it was mended, everybody is served as always.
CALM_S = 5.0
#: Longest wait for a ledger to become quiet again.
QUIET_S = 120.0

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Rate = Annotated[int, typer.Option(help="Grabs a second.", min=10)]


@app.command()
def postgresql(
    rate: Rate = 300,
    seconds: Annotated[int, typer.Option(help="How long it is away.", min=1)] = 30,
    as_json: Json = False,
) -> None:
    """Stop PostgreSQL under load, and start it again."""
    show(measure(_postgresql(rate, seconds), as_json), as_json)


async def _postgresql(rate: int, seconds: int) -> list[Finding]:
    async with bench_stack(HOME) as stack:
        gateway, sale = await _shop(stack)
        offered = asyncio.create_task(offer(stack, gateway, sale, rate, seconds + 2 * CALM_S))
        await asyncio.sleep(CALM_S)
        await stack.services.stop("postgresql")
        await asyncio.sleep(seconds)
        backlog = await stack.messages(topology.ORDERS_PLACE)
        await stack.services.start("postgresql")
        back_at = time.monotonic()
        report = await offered
        books = await stack.verify(sale, wait_s=QUIET_S)
        quiet_s = time.monotonic() - back_at
        dead = sum([await stack.messages(topology.dead(q)) for q in topology.WORK_QUEUES])
        rungs = sum([await stack.messages(topology.retry(s)) for s in topology.RETRY_DELAYS_S])
    told = report.told()
    return [
        Finding("told", told_text(told), "202 alone", set(told) == {202}),
        Finding("messages waiting when it came back", f"{backlog:,}"),
        Finding("everything placed after", f"{quiet_s:.1f} s (of load {CALM_S:g} s)"),
        Finding("dead, or on a rung of the ladder", f"{dead}, {rungs}", "0, 0", not dead + rungs),
        Finding(
            "orders pending",
            f"{books.lines['orders pending']:,}",
            f"{told[202]:,}",
            books.lines["orders pending"] == told[202],
        ),
        ledger_finding(books),
        generator(report),
    ]


@app.command()
def ladder(as_json: Json = False) -> None:
    """Let an order fail for ever, climb the whole ladder, and be replayed once it is mended."""
    show(measure(_ladder(), as_json), as_json)


async def _ladder() -> list[Finding]:
    async with bench_stack(HOME) as stack:
        gateway, sale = await _shop(stack)
        await stack.db.execute(
            f"CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.sale_id = '{sale.sale_id}' AND NEW.buyer_id = 'b0' THEN"
            f" RAISE EXCEPTION 'somebody objects'; END IF; RETURN NEW; END $$;"
            f" CREATE TRIGGER object BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION object()"
        )
        try:
            report = await offer(stack, gateway, sale, 10, 1)
            letter = await _open_letter(stack, sale)
        finally:
            await stack.db.execute("DROP TRIGGER object ON orders; DROP FUNCTION object()")
        waits = _waits(stack, letter.reason)
        ending = await resolution.replay(
            stack.db, stack.publisher, letter.letter_id, actor=audit.operator_name()
        )
        books = await stack.verify(sale, wait_s=QUIET_S)
    promised = ", ".join(f"{0.9 * rung:g} .. {1.1 * rung:g}" for rung in topology.RETRY_DELAYS_S)
    in_time = len(waits) == len(topology.RETRY_DELAYS_S) and all(
        0.9 * rung <= wait <= 1.1 * rung
        for rung, wait in zip(topology.RETRY_DELAYS_S, waits, strict=True)
    )
    told = report.told()
    return [
        Finding("told", told_text(told), "202 alone", set(told) == {202}),
        Finding("waits", ", ".join(f"{wait:.2f} s" for wait in waits), promised + " s", in_time),
        Finding(
            "dead letter",
            f"{letter.attempts} attempts, {len(letter.orders)} order: {letter.reason}",
            f"{len(topology.RETRY_DELAYS_S) + 1} attempts",
            letter.attempts == len(topology.RETRY_DELAYS_S) + 1,
        ),
        Finding("replay", ending, "replayed", ending == "replayed"),
        Finding(
            "orders pending",
            f"{books.lines['orders pending']}",
            f"{told[202]}",
            books.lines["orders pending"] == told[202],
        ),
        ledger_finding(books),
    ]


async def _open_letter(stack: BenchStack, sale: Sale) -> DeadLetter:
    """Wait until a letter of the sale lies open."""
    deadline = time.monotonic() + 2 * sum(topology.RETRY_DELAYS_S)
    while not (found := await store.page(stack.db, LetterFilter(sale_id=sale.sale_id), limit=1)):
        if time.monotonic() > deadline:
            raise SeckillError("no dead letter came")
        await asyncio.sleep(0.2)
    return found[0]


def _waits(stack: BenchStack, reason: str) -> list[float]:
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
    as_json: Json = False,
) -> None:
    """Empty Redis in mid-sale, under load, and rebuild the sale."""
    show(measure(_flush(rate, units), as_json), as_json)


async def _flush(rate: int, units: int) -> list[Finding]:
    """Offer twice the stock, half of it after the rebuild; nobody presses twice."""
    seconds = 2 * units / rate
    async with bench_stack(HOME) as stack:
        gateway, _ = await _shop(stack)
        sale = await stack.open_sale(units=units)
        offered = asyncio.create_task(offer(stack, gateway, sale, rate, seconds))
        await asyncio.sleep(seconds / 4)
        await stack.redis.flushall()
        emptied_at = time.monotonic()
        await asyncio.sleep(CALM_S)
        rebuild = Rebuild(stack.redis, stack.db)
        reasons = await rebuild.fence([sale.sale_id])
        rebuilt = await rebuild.run(
            sale.sale_id, actor=audit.operator_name(), reason=reasons[sale.sale_id]
        )
        away_s = time.monotonic() - emptied_at
        report = await offered
        books = await stack.verify(sale, wait_s=QUIET_S)
        rows = await stack.db.fetch(
            "SELECT coalesce(state || ' ' || reason, state) AS state, count(*) FROM orders"
            " WHERE sale_id = $1 GROUP BY 1 ORDER BY 1",
            sale.sale_id,
        )
    told = report.told()
    states = dict(rows)
    return [
        Finding("told", told_text(told), "202, 409, 503 alone", set(told) <= {202, 409, 503}),
        Finding("Redis empty, then rebuilt", f"{away_s:.1f} s; {rebuilt.stock:,} units left"),
        Finding("rows", ", ".join(f"{count:,} x {state}" for state, count in states.items())),
        Finding(
            "each 202 has a row",
            f"{sum(states.values()):,} of {told[202]:,}",
            "all",
            sum(states.values()) == told[202] and states.keys() <= {"pending", "rejected epoch"},
        ),
        Finding("sold", f"{states['pending']:,} of {units:,}", "all", states["pending"] == units),
        ledger_finding(books),
        generator(report),
    ]


async def _shop(stack: BenchStack) -> tuple[Process, Sale]:
    """Start a gateway and a consumer, and open a sale."""
    gateway = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
    await stack.run("consumers", OTHER_CORE)
    return gateway, await stack.open_sale(units=UNITS)


async def offer(
    stack: BenchStack, gateway: Process, sale: Sale, rate: int, seconds: float
) -> GeneratorReport:
    """Offer so many grabs a second for so long, open loop, and report what they were told."""
    crowd = Crowd("127.0.0.1", int(gateway.url.rpartition(":")[2]), connections_max=CONNECTIONS)
    count = int(rate * seconds)
    payloads = [grab_bytes(sale.sale_id, ticket) for ticket in stack.tickets(sale, count)]
    shots: Iterator[PlannedRequest] = (
        PlannedRequest(n / rate, payload) for n, payload in enumerate(payloads)
    )

    async def run() -> GeneratorReport:
        await crowd.connect(CONNECTIONS)
        await crowd.warm_up(sale.sale_id, 1)
        return await crowd.run(shots)

    # On a loop of its own: uvloop cannot start stores as other users.
    return await asyncio.to_thread(uvloop.run, run())


if __name__ == "__main__":
    app()
