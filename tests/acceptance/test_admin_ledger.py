"""The ledger through the admin API: counted beside the gateway, so that buyers do not notice."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import ClientSession

from ops.processes.supervision import DRAIN_MARGIN_S
from seckill.adapters import redis_keys
from seckill.consistency import verify
from tests.acceptance.admin_api import bearer, call, refusal
from tests.processes import Process, Processes, eventually


def counting(gateway: Process) -> list[int]:
    """Return the pids of the processes that count a ledger for this gateway."""
    pid = gateway.child.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty once it has ended
    except OSError:
        return False


async def unbalance(sale, store) -> None:
    """Take a unit away: a caller who waits for the ledger waits until it is back."""
    await store.decr(redis_keys.stock(sale.sale_id))


async def test_the_ledger_is_the_one_of_verify(admin, open_sale, store, db):
    sale = await open_sale(stock=5)
    path = f"/admin/sales/{sale.sale_id}/ledger"
    expected = (await verify.verify(store, db, sale.sale_id)).summary()
    assert await call(admin, "GET", path) == (200, expected)
    assert expected["balanced"]

    await unbalance(sale, store)
    status, ledger = await call(admin, "GET", path, params={"wait": "0.01"})
    assert (status, ledger["balanced"]) == (200, False)
    assert "I1: redis stock 4" in ledger["violations"][0]


@pytest.mark.parametrize("wait", ["-1", "60.1", "nan", "inf", "soon", ""])
async def test_a_wait_that_cannot_be_is_refused(admin, wait):
    status, body = await call(admin, "GET", "/admin/sales/x/ledger", params={"wait": wait})
    assert (status, body["field"]) == (422, "wait")


async def test_the_ledger_is_counted_beside_the_gateway_one_at_a_time(
    gateway, admin, http, open_sale, store
):
    sale = await open_sale(stock=5)
    path = f"/admin/sales/{sale.sale_id}/ledger"
    await unbalance(sale, store)
    waiting = asyncio.create_task(call(admin, "GET", path, params={"wait": "60"}))

    async def counts():
        return counting(gateway)

    (pid,) = await eventually(counts, "a process counts")

    async def leaves_the_processor():
        return os.getpriority(os.PRIO_PROCESS, pid) > 0

    await eventually(leaves_the_processor, "it leaves the processor to the gateway")
    assert await refusal(admin, "GET", path) == (503, "overloaded")
    assert (await call(http, "GET", "/v1/sales"))[0] == 200
    assert not waiting.done()

    await store.incr(redis_keys.stock(sale.sale_id))

    status, ledger = await waiting
    assert (status, ledger["balanced"]) == (200, True)
    assert counting(gateway) == []


async def test_a_count_that_no_caller_waits_for_ends(gateway, admin, open_sale, store):
    sale = await open_sale(stock=5)
    path = f"/admin/sales/{sale.sale_id}/ledger"
    await unbalance(sale, store)
    waiting = asyncio.create_task(call(admin, "GET", path, params={"wait": "60"}))

    async def counts():
        return counting(gateway)

    async def rests():
        return not counting(gateway)

    await eventually(counts, "a process counts")
    waiting.cancel()
    await eventually(rests, "the process has ended")
    assert (await call(admin, "GET", path))[0] == 200


@pytest.fixture
async def counting_gateway(processes: Processes, open_sale, store, admin_token):
    """A gateway that counts for a caller who waits, and the process that counts."""
    gateway = await processes.run("gateway")
    sale = await open_sale(stock=5)
    await unbalance(sale, store)
    async with ClientSession(gateway.admin_url, headers=bearer(admin_token)) as http:
        path = f"/admin/sales/{sale.sale_id}/ledger"
        waiting = asyncio.create_task(http.get(path, params={"wait": "60"}))

        async def counts():
            return counting(gateway)

        (pid,) = await eventually(counts, "a process counts")
        yield gateway, pid
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_gateway_that_counts_stops_within_its_supervisors_time_limit(
    counting_gateway, settings
):
    gateway, pid = counting_gateway
    await gateway.child.stop(settings.drain_s + DRAIN_MARGIN_S)
    assert gateway.child.describe_end() == "exited with 0"
    assert not runs(pid)


async def test_a_gateway_that_is_killed_takes_its_counting_along(counting_gateway):
    gateway, pid = counting_gateway
    await gateway.child.kill()

    async def gone():
        return not runs(pid)

    await eventually(gone, "the process has ended")
