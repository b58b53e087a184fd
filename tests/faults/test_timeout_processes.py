"""Timing out by real consumer processes, whichever way is configured and whoever is killed."""

from __future__ import annotations

import re

import pytest
from aiohttp import ClientSession

from ops.buyers import grab
from tests.processes import eventually

UNITS = 20


async def expired_by(process) -> dict[str, int]:
    """Return how many orders a consumer process has cancelled by each way."""
    async with ClientSession(process.admin_url) as admin, admin.get("/metrics") as response:
        text = await response.text()
    found = re.findall(r'seckill_orders_expired_total\{by="(\w+)"\} ([\d.]+)', text)
    return {way: int(float(count)) for way, count in found}


async def sell_out(http, sale, ticket_for, name):
    for n in range(UNITS):
        buyer = f"{name}{n}"
        answer = await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))
        assert answer.status == 202


async def cancelled(db, sale) -> int:
    return await db.fetchval(
        "SELECT count(*) FROM orders WHERE sale_id = $1 AND state = 'cancelled'", sale.sale_id
    )


@pytest.mark.parametrize(
    ("timeouts", "way"), [("key_expiry", "key"), ("delay_queue", "timer"), ("", "sweep")]
)
async def test_F6_one_configured_way_cancels_unpaid_orders(
    processes, open_sale, ticket_for, db, assert_balanced, timeouts, way
):
    gateway = await processes.run("gateway")
    consumers = await processes.run("consumers", SECKILL_TIMEOUTS=timeouts)
    sale = await open_sale(stock=UNITS, payment_window_s=1)
    async with ClientSession(gateway.url) as http:
        await sell_out(http, sale, ticket_for, "b")

    async def all_cancelled():
        return await cancelled(db, sale) == UNITS

    await eventually(all_cancelled, "all are cancelled", within_s=60)
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders cancelled"] == ledger.lines["redis stock"] == UNITS
    by = await expired_by(consumers)
    assert by.keys() <= {way, "sweep"}  # the sweep may be first on a machine that stalls


async def test_F6_F26_F22_all_ways_at_two_processes_of_which_one_is_killed(
    processes, open_sale, ticket_for, assert_balanced
):
    gateway = await processes.run("gateway")
    ways = {"SECKILL_TIMEOUTS": "delay_queue,key_expiry"}
    killed, _ = [await processes.run("consumers", **ways) for _ in range(2)]
    sale = await open_sale(stock=UNITS, payment_window_s=1)
    async with ClientSession(gateway.url) as http:
        await sell_out(http, sale, ticket_for, "b")

        async def some_are_cancelled():
            return sum((await expired_by(killed)).values()) > 0

        await eventually(some_are_cancelled, "the one to be killed has cancelled some", within_s=60)
        await killed.child.kill()
        ledger = await assert_balanced(sale, wait_s=60)

        async def units_are_back():
            async with http.get(f"/v1/sales/{sale.sale_id}") as response:
                return (await response.json())["remaining"] == UNITS

        await eventually(units_are_back, "all units are back", within_s=60)
        await sell_out(http, sale, ticket_for, "late")
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders cancelled"] + ledger.lines["orders pending"] == 2 * UNITS


async def test_F26_redis_is_killed_while_keys_wait(
    processes, services, open_sale, ticket_for, db, assert_balanced
):
    """Keys outlive it; events of the time in which it was down do not, and the sweep finds them."""
    gateway = await processes.run("gateway")
    await processes.run("consumers", SECKILL_TIMEOUTS="key_expiry")
    sale = await open_sale(stock=UNITS, payment_window_s=1)
    async with ClientSession(gateway.url) as http:
        await sell_out(http, sale, ticket_for, "b")
    await services.kill("redis")
    await services.start("redis")

    async def all_cancelled():
        return await cancelled(db, sale) == UNITS

    await eventually(all_cancelled, "all are cancelled", within_s=60)
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders cancelled"] == UNITS
