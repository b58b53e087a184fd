"""Grabs on a connection each, offered to one server after the other: knees and storms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout

from loadtest.crowd.generator_processes import offer_each
from loadtest.crowd.grab_http import HttpForm
from loadtest.crowd.knee import Knee, find_knee
from loadtest.crowd.offer import plan_grabs
from loadtest.crowd.report import GOOD_S, CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.crowd.schedule import Schedule
from loadtest.stack import BenchStack
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

#: Length of each step towards a knee.
STEP_S = 3.0
#: How long a buyer waits for an answer.
PATIENCE_S = 2.0
#: After a storm, grabs at this gentle rate show when all is well again.
GENTLE_RATE, GENTLE_S = 100, 3.0
#: A server is at rest when it has answered so many in a row in good time, within REST_MAX_S. Each
#: comes on a connection of its own, for a gateway has several listening sockets.
AT_REST, REST_MAX_S = 10, 30.0


@dataclass(slots=True)
class ConnectionTrials:
    """Offers grabs on a connection each, by buyers who are new each time."""

    stack: BenchStack
    processes: int
    #: Everything but the process under test.
    cores: tuple[int, ...]
    _first: int = 0

    def plan(self, sale: Sale, dues: Sequence[float], form: HttpForm) -> list[PlannedRequest]:
        """Plan grabs of buyers who have never been there."""
        first, self._first = self._first, self._first + len(dues)
        return plan_grabs(self.stack, [sale], dues, first, form)

    async def offer(
        self, url: str, sale: Sale, dues: Sequence[float], seconds: float, form: HttpForm
    ) -> CrowdReport:
        """Offer them to a server that is at rest."""
        requests = self.plan(sale, dues, form)
        await until_at_rest(url, sale)
        return await offer_each(
            url,
            requests,
            seconds,
            patience_s=PATIENCE_S,
            processes=self.processes,
            cores=self.cores,
        )

    async def knee(
        self, url: str, sale: Sale, status: int = 202, form: HttpForm = HttpForm.KEEP_ALIVE
    ) -> Knee:
        """Find the knee of a server."""

        async def trial(rate: float) -> CrowdReport:
            dues = Schedule(rate=rate, seconds=STEP_S).due_times()
            return await self.offer(url, sale, dues, STEP_S, form)

        found = await find_knee(trial, status)
        await self.stack.drop_queue()
        if not found.per_s:
            raise SeckillError(f"{url} answers not even the lowest rate in time")
        return found

    async def storm(self, url: str, sale: Sale, rate: float, seconds: float) -> CrowdReport:
        """Offer a rate for so long, and gentle grabs after it."""
        dues = Schedule(rate=rate, seconds=seconds).due_times()
        dues += [seconds + n / GENTLE_RATE for n in range(int(GENTLE_RATE * GENTLE_S))]
        return await self.offer(url, sale, dues, seconds + GENTLE_S, HttpForm.KEEP_ALIVE)


async def until_at_rest(url: str, sale: Sale) -> None:
    """Return when a server reads a sale at once; another may answer that it knows no such page."""
    deadline, well = time.monotonic() + REST_MAX_S, 0
    async with ClientSession(timeout=ClientTimeout(total=GOOD_S)) as http:
        while well < AT_REST:
            page = http.get(f"{url}/v1/sales/{sale.sale_id}", headers={"Connection": "close"})
            try:
                async with page as answer:
                    well = well + 1 if answer.status < 500 else 0
            except (ClientError, TimeoutError):
                well = 0
            if time.monotonic() > deadline:
                raise SeckillError(f"{url} is not at rest {REST_MAX_S:g} s after a step")
            await asyncio.sleep(0.02)  # or this would be a load, too
