"""The pool is scaled, paused, shot at and restarted under load: no order is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from aiohttp import ClientSession

from ops.buyers import BuyerReply, grab
from ops.stack.services import temporary_home
from seckill.adapters import topology
from tests.pools import PATIENCE_S, RunningPool
from tests.processes import eventually, limits_profile

PLACE = "place_orders"
#: Grabs on their way at once: a steady load that a shared core bears.
BUYERS_AT_ONCE = 8
#: Messages that a step waits for, so that it happens in the middle of the load.
SOME = 50


class Load:
    """Buyers who grab for ever, a few at a time, and the replies they got."""

    def __init__(self, press: Callable[[str], Awaitable[BuyerReply]]) -> None:
        self.answers: list[BuyerReply] = []
        self._press = press
        self._under_way = 0
        self._open = asyncio.Event()
        self._open.set()
        self._tasks = [asyncio.create_task(self._come(n)) for n in range(BUYERS_AT_ONCE)]

    async def _come(self, line: int) -> None:
        number = 0
        while True:
            await self._open.wait()
            number += 1
            self._under_way += 1
            self.answers.append(await self._press(f"buyer-{line}-{number}"))
            self._under_way -= 1

    async def some_more(self) -> None:
        """Return when some more were served."""
        goal = len(self.answers) + SOME

        async def served() -> bool:
            return len(self.answers) >= goal

        await eventually(served, "the load goes on", within_s=PATIENCE_S)

    def hold(self) -> None:
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    async def end(self) -> None:
        """Let those on their way finish."""
        self.hold()

        async def settled() -> bool:
            return self._under_way == 0

        await eventually(settled, "all have their answers")
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.timeout(300)  # each comparison waits for the broker's own, which it renews each 5 s
async def test_no_order_is_lost_or_doubled_whatever_is_done_to_the_pool_under_load(
    processes, settings, services, open_sale, ticket_for, assert_balanced, db
) -> None:
    gateway = await processes.run("gateway", **limits_profile(processes.home))
    sale = await open_sale(stock=100_000)
    with temporary_home() as home:
        async with RunningPool(settings, home) as pool, ClientSession(gateway.url) as http:
            await pool.start()
            load = Load(lambda buyer: grab(http, sale.sale_id, buyer, ticket_for(sale, buyer)))

            async def stands(workers: int, running: int) -> None:
                """Check all that is said of the role, against the processes and the broker."""
                await pool.runs(PLACE, running)
                assert (await pool.role(PLACE))["wanted"] == workers
                assert len(await pool.pids()) == workers
                load.hold()
                await pool.agrees(services, PLACE, topology.ORDERS_PLACE, consumers=running)
                load.go_on()
                await load.some_more()

            await pool.do("scale", f"{PLACE}=4")
            await stands(4, 4)
            for number in range(1, 5):
                await pool.kill(f"consumers-{number}")
            await stands(4, 4)
            assert (await pool.role(PLACE))["restarts"] == 4
            await pool.do("scale", f"{PLACE}=1")
            await stands(1, 1)

            await pool.do("pause", PLACE)
            before = (await pool.role(PLACE))["backlog"]
            await stands(1, 0)
            assert (await pool.role(PLACE))["backlog"] >= before + 1
            await pool.do("resume", PLACE)
            await stands(1, 1)

            await pool.do("scale", f"{PLACE}=2")
            await pool.kill_manager()
            await load.some_more()
            await pool.start()
            await stands(2, 2)

            await pool.do("restart")
            await stands(2, 2)
            await load.end()
            ledger = await assert_balanced(sale, wait_s=60)

    accepted = {a.order_id for a in load.answers if a.status == 202}
    assert len(accepted) == len(load.answers), "every buyer has an order"
    rows = await db.fetch("SELECT order_id::text FROM orders WHERE sale_id = $1", sale.sale_id)
    assert {row[0] for row in rows} == accepted
    assert len(rows) == len(accepted) == ledger.lines["orders pending"]
