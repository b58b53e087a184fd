"""The sides of `make bench` that end in PostgreSQL; all processes share both cores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

from loadtest.bench.sides import Side
from loadtest.bench.wrk import WrkResult, grab_in
from loadtest.crowd.offer import offer_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.schedule import Schedule
from loadtest.stack import BenchStack, Process
from seckill import messages
from seckill.adapters import redis_keys, topology
from seckill.errors import SeckillError
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id
from seckill.sales.sales import Sale

#: Grabs in one message of the full queue: what a gateway makes of 256 busy connections.
MESSAGE_GRABS = 50
MERGED_ORDERS = 60_000
SINGLE_ORDERS = 3_000
#: Publishes in flight while a queue is filled.
PUBLISHES_MAX = 50
#: Longest wait for the next order of a run.
LANDED_S = 60.0
#: Runs that are not valid, because the generator did not keep up, are repeated up to so many.
OFFERS_MAX = 3


async def order_sides(stack: BenchStack, seconds: int) -> dict[str, Side]:
    """Orders that land in PostgreSQL."""
    gateway = await stack.gateway(core=None)
    return {
        "orders": Side("orders, all the way", partial(_orders_per_second, stack, gateway, seconds)),
        "merged": Side(
            "orders, one consumer, merged", partial(_placed, stack, MERGED_ORDERS, MESSAGE_GRABS)
        ),
        "single": Side("orders, one by one", partial(_placed, stack, SINGLE_ORDERS, 1)),
    }


async def p99_side(stack: BenchStack, rate: float, seconds: int) -> Side:
    """Measure the p99 of grabs that come at this rate, whatever becomes of them."""
    gateway = await stack.run("gateway")
    await stack.run("consumers")

    async def offered() -> tuple[Sale, CrowdReport]:
        for _ in range(OFFERS_MAX):
            sale = await stack.open_sale()
            schedule = Schedule(rate=rate, seconds=seconds)
            report = await offer_grabs(stack, gateway.url, [sale], schedule)
            if report.valid:
                return sale, report
        raise SeckillError(f"the open-loop generator did not keep up in {OFFERS_MAX} runs")

    async def p99() -> float:
        sale, report = await offered()
        ledger = await stack.verify(sale)
        if not ledger.balanced:
            raise SeckillError(f"the ledger does not balance: {'; '.join(ledger.violations)}")
        # A refused grab waits for ever: refusing the slowest must not improve the p99.
        refused = 1 - len(report.answered(202)) / len(report.requests)
        return inf if refused >= 0.01 else report.latency_ms(0.99 / (1 - refused), 202)

    return Side(f"p99 at {rate:,.0f} grabs/s, ms", p99)


async def _placed(stack: BenchStack, count: int, message_grabs: int) -> float:
    """Let one consumer find a full queue; return the orders a second."""
    sale = await stack.open_sale()
    await _fill_queue(stack, sale, count, message_grabs)
    overrides = {"SECKILL_PLACE_BATCH_MAX": "1"} if message_grabs == 1 else {}
    consumer = await stack.run("consumers", **overrides)

    async def all_of_them() -> float:
        return count

    try:
        return await _landing_rate(stack, sale, all_of_them, look_s=0.01)
    finally:
        await consumer.child.stop()
        await stack.drop_queue()


async def _fill_queue(stack: BenchStack, sale: Sale, count: int, message_grabs: int) -> None:
    """Publish so many accepted grabs to orders.place."""
    numbers = iter(range(0, count, message_grabs))

    async def publish() -> None:
        for first in numbers:
            grabs = [
                Grab(new_order_id(sale.number), f"b{n}", 1)
                for n in range(first, first + message_grabs)
            ]
            body = messages.encode_place(sale.sale_id, sale.epoch, [], grabs)
            await stack.publisher.publish(topology.ORDERS_PLACE, body)

    await asyncio.gather(*(publish() for _ in range(PUBLISHES_MAX)))


async def _orders_per_second(stack: BenchStack, gateway: Process, seconds: int) -> float:
    rate, _ = await all_the_way(stack, gateway, await stack.open_sale(), seconds)
    return rate


async def all_the_way(
    stack: BenchStack, gateway: Process, sale: Sale, seconds: int
) -> tuple[float, WrkResult]:
    """Grab for so long; return the orders a second from the first to the last one that landed."""
    consumer = await stack.run("consumers")
    grabbing = asyncio.create_task(grab_in(stack, gateway.url, [sale], seconds, cores=None))

    async def grabbed() -> float:
        # wrk stops with grabs in flight, and does not count them; Redis does.
        if not grabbing.done():
            return inf
        return float(await stack.redis.hlen(redis_keys.holders(sale.sale_id)))

    try:
        # Each look at how many have landed costs what an order costs.
        rate = await _landing_rate(stack, sale, grabbed, look_s=0.05)
        return rate, await grabbing  # which may have failed
    finally:
        await consumer.child.stop()


async def _landing_rate(
    stack: BenchStack, sale: Sale, wanted: Callable[[], Awaitable[float]], look_s: float
) -> float:
    """Watch until as many orders have landed as are wanted; return orders a second since the first.

    Infinite when all of them were there already.
    """
    query = "SELECT frozen FROM inventory WHERE sale_id = $1"
    first, landed = 0, 0
    first_at = landed_at = time.monotonic()
    while landed < await wanted():
        seen, now = await stack.db.fetchval(query, sale.sale_id), time.monotonic()
        if seen and not first:
            first, first_at = seen, now
        if seen > landed:
            landed, landed_at = seen, now
        if now > landed_at + LANDED_S:
            raise SeckillError(f"only {landed:,} of {await wanted():,} orders landed")
        await asyncio.sleep(look_s)
    return (landed - first) / (landed_at - first_at) if landed > first else inf
