"""`python -m loadtest.drills postgresql|ladder`: what an operator fears, on private stores.

Each drill breaks something under load, lets it recover, and holds what buyers were told against
the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Annotated

import typer
import uvloop

from config.settings import PROJECT_ROOT
from loadtest.bench import NO_SHEDDING, OTHER_CORE, TESTED_CORE
from loadtest.bench_stack import BenchStack, Process, bench_stack
from loadtest.findings import (
    Finding,
    Json,
    generator,
    ledger_finding,
    measure,
    show,
    told_text,
)
from loadtest.open_loop import Crowd, Report, Shot, grab_bytes
from seckill import topology
from seckill.sales import Sale

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
        rungs = sum([await stack.messages(topology.retry(s)) for s in topology.RUNGS_S])
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


async def _shop(stack: BenchStack) -> tuple[Process, Sale]:
    """Start a gateway and a consumer, and open a sale."""
    gateway = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
    await stack.run("consumers", OTHER_CORE)
    return gateway, await stack.open_sale(units=UNITS)


async def offer(
    stack: BenchStack, gateway: Process, sale: Sale, rate: int, seconds: float
) -> Report:
    """Offer so many grabs a second for so long, open loop, and report what they were told."""
    crowd = Crowd("127.0.0.1", int(gateway.url.rpartition(":")[2]), connections_max=CONNECTIONS)
    count = int(rate * seconds)
    payloads = [grab_bytes(sale.sale_id, ticket) for ticket in stack.tickets(sale, count)]
    shots: Iterator[Shot] = (Shot(n / rate, payload) for n, payload in enumerate(payloads))

    async def run() -> Report:
        await crowd.connect(CONNECTIONS)
        await crowd.warm_up(sale.sale_id, 1)
        return await crowd.run(shots)

    # On a loop of its own: uvloop cannot start stores as other users.
    return await asyncio.to_thread(uvloop.run, run())


if __name__ == "__main__":
    app()
