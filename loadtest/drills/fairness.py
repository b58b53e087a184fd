"""`python -m loadtest.drills.fairness`: what one hot sale costs the buyers of the others.

Rounds with and without the hot sale take turns. In each, the small sales get the same few grabs a
second; measured is the time from their 202 until their orders are seen pending in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Annotated

import asyncpg
import typer
import uvloop

from config.settings import PROJECT_ROOT
from loadtest.crowd.generator import (
    Crowd,
    GeneratorReport,
    PlannedRequest,
    grab_bytes,
    no_garbage_looked_for,
)
from loadtest.crowd.report import generator
from loadtest.findings import Finding, Json, measure, show, told_text
from loadtest.stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, BenchStack, bench_stack
from seckill.errors import SeckillError
from seckill.order_ids import sale_number_of
from seckill.sales.sales import Sale

SALES = 50
#: The hot sale's share of the load.
HOT_SHARE = 0.95
#: Times longer that a small sale's p99 may be beside a hot one.
PROMISED = 3.0
CONNECTIONS = 200
#: How often PostgreSQL is asked for the orders that were promised.
LOOK_S = 0.003
#: Longest wait for an order that was promised.
PATIENCE_S = 60.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Watch:
    """Orders of small sales that were promised, until they are seen."""

    def __init__(self, db: asyncpg.Pool, small: Iterable[Sale]) -> None:
        self._db = db
        self._numbers = {sale.number for sale in small}
        self._promised: deque[tuple[str, float]] = deque()
        self._open: dict[str, float] = {}
        self.waits_ms: list[float] = []

    def heard(self, shot: PlannedRequest, body: bytes) -> None:
        """Take note of a 202 of a small sale; called in the crowd's thread."""
        if shot.status == 202:
            order_id = json.loads(body)["order_id"]
            if sale_number_of(order_id) in self._numbers:
                self._promised.append((order_id, time.monotonic()))

    async def look(self) -> bool:
        """Look once; tell whether every promise was kept by now."""
        while self._promised:
            order_id, at = self._promised.popleft()
            self._open[order_id] = at
        rows = await self._db.fetch(
            "SELECT order_id::text FROM orders WHERE order_id = ANY($1)", list(self._open)
        )
        now = time.monotonic()
        self.waits_ms += [1000 * (now - self._open.pop(row[0])) for row in rows]
        return not self._open and not self._promised

    def p99_ms(self) -> float:
        """Return the wait that one in a hundred exceeded."""
        return sorted(self.waits_ms)[int(0.99 * len(self.waits_ms))]


@app.command()
def fairness(
    rate: Annotated[int, typer.Option(help="Grabs a second, all sales together.", min=100)] = 1500,
    seconds: Annotated[int, typer.Option(help="Length of a round.", min=2)] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds of each kind.", min=1)] = 5,
    as_json: Json = False,
) -> None:
    """Offer 50 sales, one with 95 % of the load, and the same without that one."""
    show(measure(_fairness(rate, seconds, rounds), as_json), as_json)


async def _fairness(rate: int, seconds: int, rounds: int) -> list[Finding]:
    async with bench_stack(PROJECT_ROOT / ".seckill" / "bench") as stack:
        gateway = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
        await stack.run("consumers", OTHER_CORE)
        port = int(gateway.url.rpartition(":")[2])
        p99s: dict[bool, list[float]] = {False: [], True: []}
        findings = []
        await _round(stack, port, rate, 2, with_hot=True)  # whatever is slow the first time
        for n in range(2 * rounds):
            with_hot = n % 2 == 1
            report, watch = await _round(stack, port, rate, seconds, with_hot=with_hot)
            p99s[with_hot].append(watch.p99_ms())
            told = report.told()
            findings += [
                Finding(
                    f"round {n + 1}, {'with the hot sale' if with_hot else 'without'}",
                    f"p99 {watch.p99_ms():.0f} ms of {len(watch.waits_ms):,}; {told_text(told)}",
                    "202 alone",
                    set(told) == {202},
                ),
                generator(report),
            ]
    with_ms, without_ms = median(p99s[True]), median(p99s[False])
    return [
        *findings,
        Finding(
            "202 to pending at the small sales, median of the p99s",
            f"{with_ms:.0f} ms with, {without_ms:.0f} ms without: x {with_ms / without_ms:.2f}",
            f"at most x {PROMISED:g}",
            with_ms <= PROMISED * without_ms,
        ),
    ]


async def _round(
    stack: BenchStack, port: int, rate: int, seconds: int, *, with_hot: bool
) -> tuple[GeneratorReport, Watch]:
    """Run one round until every small order is seen and every hot one is placed."""
    hot, *small = [await stack.open_sale() for _ in range(SALES)]
    few = int((1 - HOT_SHARE) * rate * seconds)
    many = int(HOT_SHARE * rate * seconds) if with_hot else 0
    shots = heapq.merge(
        _shots(stack, small, few, seconds), _shots(stack, [hot], many, seconds), key=_due
    )
    watch = Watch(stack.db, small)
    crowd = Crowd("127.0.0.1", port, connections_max=CONNECTIONS, heard=watch.heard)

    async def offer() -> GeneratorReport:
        await crowd.connect(CONNECTIONS)
        await crowd.warm_up(hot.sale_id, 1)
        return await crowd.run(shots)

    with no_garbage_looked_for():
        running = asyncio.create_task(asyncio.to_thread(uvloop.run, offer()))
        ends_at = time.monotonic() + seconds + PATIENCE_S
        while not (await watch.look() and running.done()):
            if time.monotonic() > ends_at:
                raise SeckillError(f"{len(watch.waits_ms):,} of {few:,} orders of small sales came")
            await asyncio.wait({running}, timeout=LOOK_S)
    books = await stack.verify(hot, wait_s=PATIENCE_S)
    if not books.balanced:
        raise SeckillError("; ".join(books.violations))
    return await running, watch


def _shots(
    stack: BenchStack, sales: list[Sale], count: int, seconds: float
) -> Iterator[PlannedRequest]:
    """Spread `count` grabs evenly over the time, and in turn over the sales."""
    tickets = [(sale, stack.tickets(sale, -(-count // len(sales)))) for sale in sales]
    made = [
        grab_bytes(sale.sale_id, next(of_sale))
        for _, (sale, of_sale) in zip(range(count), itertools.cycle(tickets), strict=False)
    ]
    return (PlannedRequest(n * seconds / count, payload) for n, payload in enumerate(made))


def _due(shot: PlannedRequest) -> float:
    return shot.due_s


if __name__ == "__main__":
    app()
