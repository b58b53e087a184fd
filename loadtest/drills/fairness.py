"""`python -m loadtest.drills.fairness`: what one hot sale costs the buyers of the others.

Rounds with and without the hot sale take turns. In each, the small sales get the same few grabs a
second; measured is the time from their 202 until their orders are seen pending in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Annotated

import asyncpg
import typer

from loadtest.crowd.latencies import percentile
from loadtest.crowd.offer import offer, plan_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.findings import AsJson, Finding, measure
from loadtest.stack import PATIENCE_S, BenchStack, Process, bench_stack
from seckill.errors import SeckillError
from seckill.order_ids import sale_number_of
from seckill.sales.sales import Sale

SALES = 50
#: The hot sale's share of the load.
HOT_SHARE = 0.95
#: Times longer that a small sale's p99 may be beside a hot one.
PROMISED = 3.0
CONNECTIONS = 200
#: How often PostgreSQL is asked for the orders that were accepted.
LOOK_S = 0.003


class AcceptedOrders:
    """Orders of small sales between their 202 and their row."""

    def __init__(self, db: asyncpg.Pool, small: Iterable[Sale]) -> None:
        self._db = db
        self._numbers = {sale.number for sale in small}
        self._accepted: deque[tuple[str, float]] = deque()
        self._open: dict[str, float] = {}
        self.waits_ms: list[float] = []

    def on_answer(self, request: PlannedRequest, body: bytes) -> None:
        """Note a 202 of a small sale; called in the generator's thread."""
        if request.status == 202:
            order_id = json.loads(body)["order_id"]
            if sale_number_of(order_id) in self._numbers:
                self._accepted.append((order_id, time.monotonic()))

    async def look(self) -> bool:
        """Look once; return whether every accepted order has its row by now."""
        while self._accepted:
            order_id, at = self._accepted.popleft()
            self._open[order_id] = at
        rows = await self._db.fetch(
            "SELECT order_id::text FROM orders WHERE order_id = ANY($1)", list(self._open)
        )
        now = time.monotonic()
        self.waits_ms += [1000 * (now - self._open.pop(row[0])) for row in rows]
        return not self._open and not self._accepted

    def p99_ms(self) -> float:
        """Return the wait that one in a hundred exceeded."""
        return percentile(sorted(self.waits_ms), 0.99)


def main(
    rate: Annotated[int, typer.Option(help="Grabs a second, all sales together.", min=100)] = 1500,
    seconds: Annotated[int, typer.Option(help="Length of a round.", min=2)] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds of each kind.", min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """Offer 50 sales, one with 95 % of the load, and the same without that one."""
    measure(_fairness(rate, seconds, rounds), as_json)


async def _fairness(rate: int, seconds: int, rounds: int) -> list[Finding]:
    async with bench_stack() as stack:
        gateway = await stack.gateway(consumers=1)
        p99s: dict[bool, list[float]] = {False: [], True: []}
        findings = []
        await _round(stack, gateway, rate, 2, with_hot=True)  # whatever is slow the first time
        for n in range(2 * rounds):
            with_hot = n % 2 == 1
            report, orders = await _round(stack, gateway, rate, seconds, with_hot=with_hot)
            p99s[with_hot].append(orders.p99_ms())
            name = f"round {n + 1}, {'with the hot sale' if with_hot else 'without'}"
            text = f"p99 {orders.p99_ms():.0f} ms of {len(orders.waits_ms):,}"
            findings += [Finding(name, text), report.answers_finding(202), report.late_finding()]
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
    stack: BenchStack, gateway: Process, rate: int, seconds: int, *, with_hot: bool
) -> tuple[CrowdReport, AcceptedOrders]:
    """Run one round until every small order is seen and every hot one is placed."""
    hot, *small = [await stack.open_sale() for _ in range(SALES)]
    few = int((1 - HOT_SHARE) * rate * seconds)
    many = int(HOT_SHARE * rate * seconds) if with_hot else 0
    requests = plan_grabs(stack, small, [n * seconds / few for n in range(few)])
    requests += plan_grabs(stack, [hot], [n * seconds / many for n in range(many)], first=few)
    requests.sort(key=lambda request: request.due_s)
    orders = AcceptedOrders(stack.db, small)
    running = asyncio.create_task(
        offer(
            gateway.url,
            requests,
            seconds,
            sale_ids=[hot.sale_id],
            connections=CONNECTIONS,
            on_answer=orders.on_answer,
        )
    )
    ends_at = time.monotonic() + seconds + PATIENCE_S
    while not (await orders.look() and running.done()):
        if time.monotonic() > ends_at:
            raise SeckillError(f"{len(orders.waits_ms):,} of {few:,} orders of small sales came")
        await asyncio.wait({running}, timeout=LOOK_S)
    ledger = await stack.verify(hot)
    if not ledger.balanced:
        raise SeckillError("; ".join(ledger.violations))
    return await running, orders


if __name__ == "__main__":
    typer.run(main)
