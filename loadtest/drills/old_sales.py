"""`python -m loadtest.drills.old_sales`: what many closed sales cost, at rest and under grabs.

The same is measured in an empty installation and then among old sales: the CPU time of a consumer,
of Redis and PostgreSQL and of reading the backlogs, while nothing happens; and how long a grab and
`GET /v1/sales` take, one after another. Each old sale has one paid order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Annotated

import typer
from aiohttp import ClientSession

from loadtest.findings import AsJson, Finding, measure
from loadtest.stack import BenchStack, Process, cpu_s_of, cpu_s_of_trees, temporary_stack
from ops.buyers import grab
from seckill.adapters import redis_keys
from seckill.adapters.rabbitmq import Broker
from seckill.adapters.redis import open_pipeline
from seckill.errors import SeckillError
from seckill.health.backlogs import Backlogs

#: Share of a core that a consumer at rest may take.
CONSUMER_MAX = 0.05
#: Times that a grab, or a list of sales, may take as long as in an empty installation.
SLOWER_MAX = 1.2
#: Roles rest 5 s after the last work (consumers/runtime/activity.py), of which some hear 1 s later.
REST_S = 7.0
#: Lists are so fast that the work of one second of others would decide about their slowest.
LISTS_A_GRAB = 5
#: Time for all old sales to be marked as quiet.
MARKED_S = 300.0
#: Old sales written to Redis in one round trip.
STEP = 1_000

_CLOSED = """
WITH made AS (
  INSERT INTO sales (sale_id, price_cents, per_order_max, payment_window_s, state, opened_at,
                     closed_at)
  SELECT 'old-' || n, 1999, 1, 900, 'closed', now() - interval '1 day', now() - interval '1 hour'
    FROM generate_series(1, $1) AS n
  RETURNING sale_id, number
), stocked AS (
  INSERT INTO inventory (sale_id, total, available, sold) SELECT sale_id, 10, 9, 1 FROM made
), paid AS (
  INSERT INTO orders (order_id, sale_id, buyer_id, quantity, amount_cents, state, pay_by)
  SELECT gen_random_uuid(), sale_id, 'ann', 1, 1999, 'paid', now() FROM made
  RETURNING sale_id, order_id::text
)
SELECT sale_id, number, order_id FROM made JOIN paid USING (sale_id)
"""


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured once; shares of a core, milliseconds."""

    consumer: float
    redis: float
    postgresql: float
    backlogs_ms: float
    grab_p99_ms: float
    list_p99_ms: float


async def run(closed: int, opened: int, seconds: float, calls: int) -> list[Finding]:
    """Measure an empty installation, then one with so many closed and open sales."""
    async with temporary_stack() as stack:
        gateway, consumer = await stack.run("gateway"), await stack.run("consumers")
        empty = await _measure(stack, gateway, consumer, seconds, calls)
        await _close_many(stack, closed)
        for _ in range(opened):
            await stack.open_sale()
        began, cpu_s = time.monotonic(), consumer.cpu_s()
        await _until_marked(stack)
        marking = Finding(
            f"{closed:,} old sales marked as quiet",
            f"in {time.monotonic() - began:.0f} s; "
            f"{consumer.cpu_s() - cpu_s:.1f} s of the consumer's CPU",
        )
        full = await _measure(stack, gateway, consumer, seconds, calls)
    return [marking, *_findings(empty, full)]


def main(
    closed: Annotated[int, typer.Option(help="Closed sales.", min=1)] = 20_000,
    open_: Annotated[int, typer.Option("--open", help="Open sales.", min=1)] = 200,
    seconds: Annotated[float, typer.Option(help="At rest, each time.", min=1)] = 10.0,
    calls: Annotated[int, typer.Option(help="Grabs each time.", min=100)] = 4_000,
    as_json: AsJson = False,
) -> None:
    """Measure what many closed sales cost."""
    measure(run(closed, open_, seconds, calls), as_json)


def _findings(empty: Costs, full: Costs) -> list[Finding]:
    def share(name: str, promised: float | None = None) -> Finding:
        before, now = getattr(empty, name), getattr(full, name)
        text = f"{now:.1%} of a core; empty installation {before:.1%}"
        if promised is None:
            return Finding(f"{name} at rest", text)
        return Finding(f"{name} at rest", text, f"under {promised:.0%}", now < promised)

    def latency(name: str, before: float, now: float) -> Finding:
        text = f"{now:.2f} ms; empty installation {before:.2f} ms (x {now / before:.2f})"
        return Finding(name, text, f"under x {SLOWER_MAX:g}", now < before * SLOWER_MAX)

    backlogs = f"{full.backlogs_ms:.1f} ms; empty installation {empty.backlogs_ms:.1f} ms"
    return [
        share("consumer", CONSUMER_MAX),
        share("redis"),
        share("postgresql"),
        Finding("CPU time of a look at the backlogs", backlogs),
        latency("a grab, p99", empty.grab_p99_ms, full.grab_p99_ms),
        latency("GET /v1/sales, p99", empty.list_p99_ms, full.list_p99_ms),
    ]


async def _measure(
    stack: BenchStack, gateway: Process, consumer: Process, seconds: float, calls: int
) -> Costs:
    sale = await stack.open_sale()
    tickets = [(buyer, ticket) for _, buyer, ticket in stack.tickets([sale], calls)]
    async with ClientSession(gateway.url) as http:

        async def list_once(_: tuple[str, str]) -> None:
            async with http.get("/v1/sales") as response:
                if response.status != 200:
                    raise SeckillError(f"GET /v1/sales: {response.status}")
                await response.read()

        async def grab_once(buyer: tuple[str, str]) -> None:
            answer = await grab(http, sale.sale_id, *buyer)
            if answer.status != 202:
                raise SeckillError(f"a grab was answered {answer.status} {answer.code}")

        lists = await _p99_ms(list_once, tickets * LISTS_A_GRAB)
        grabs = await _p99_ms(grab_once, tickets)
    await stack.verify(sale)
    backlogs_ms = await _backlogs_ms(stack)
    await asyncio.sleep(REST_S)
    pids = {name: stack.services.pid(name) or 0 for name in ("redis", "postgresql")}
    before = consumer.cpu_s(), cpu_s_of(pids["redis"]), cpu_s_of_trees([pids["postgresql"]])
    await asyncio.sleep(seconds)  # nothing happens: that is what is measured
    after = consumer.cpu_s(), cpu_s_of(pids["redis"]), cpu_s_of_trees([pids["postgresql"]])
    shares = [(b - a) / seconds for a, b in zip(before, after, strict=True)]
    return Costs(*shares, backlogs_ms, grabs, lists)


async def _p99_ms(
    call: Callable[[tuple[str, str]], Awaitable[None]], buyers: list[tuple[str, str]]
) -> float:
    """Return what 99 of 100 calls took at most, after some that are not counted."""
    taken = []
    for buyer in buyers:
        began = time.perf_counter()
        await call(buyer)
        taken.append((time.perf_counter() - began) * 1000)
    return quantiles(taken[len(taken) // 10 :], n=100)[98]


async def _backlogs_ms(stack: BenchStack) -> float:
    """Return the CPU time of one look of the pool manager, the second of two."""
    backlogs = Backlogs(stack.redis, stack.db, Broker(stack.services.amqp_url, "drill", 10))
    try:
        await backlogs.read()
        began = time.process_time()
        await backlogs.read()
        return (time.process_time() - began) * 1000
    finally:
        await backlogs.close()


async def _close_many(stack: BenchStack, count: int) -> None:
    """Write closed sales into both stores, each with one paid order."""
    rows = await stack.db.fetch(_CLOSED, count, timeout=120)
    await stack.db.execute("ANALYZE sales, inventory, orders")
    for start in range(0, count, STEP):
        async with open_pipeline(stack.redis) as pipe:
            for sale_id, number, order_id in rows[start : start + STEP]:
                terms = {"opens_at_ms": 0, "closes_at_ms": 0, "per_order_max": 1, "total": 10}
                state = {"state": "closed", "number": number, "epoch": 1, "corrections": 0}
                pipe.hset(redis_keys.sale(sale_id), mapping=state | terms)
                pipe.set(redis_keys.stock(sale_id), 9)
                pipe.hset(redis_keys.holders(sale_id), "ann", f"{order_id}:1")
            await pipe.execute()


async def _until_marked(stack: BenchStack) -> None:
    deadline = time.monotonic() + MARKED_S
    while await stack.db.fetchval(
        "SELECT count(*) FROM sales WHERE quiet_stamp IS NULL AND state = 'closed'"
    ):
        if time.monotonic() > deadline:
            raise SeckillError(f"not all old sales were marked within {MARKED_S:g} s")
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    typer.run(main)
