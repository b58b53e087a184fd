"""`python -m loadtest.drills.connections`: a connection for each buyer, and too many of them.

Finds the knee of new connections: the highest rate at which 99 of 100 have their answer within a
quarter of a second, of one gateway on a core of its own, and of nginx with Lua (script only) beside
it, where that is installed. Then come 1.5, 2.5 and 5 times as many buyers, who wait for 2 s, while
units last and when all are sold; and 1.5 times the capacity on connections that stay open.

To open a connection costs the generator as much as the gateway, most of it in the kernel, so on two
cores it cannot offer several times what a whole core serves. With `--busy 3` three other processes
share the core of the server under test, except for connections that stay open. All multiples are
then of a quarter of a core.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated

import typer

from loadtest.bench.peers.servers import NGINX, running
from loadtest.bench.sides import sell_out
from loadtest.bench.wrk import grabs_per_second, require_wrk
from loadtest.crowd.grab_http import HttpForm
from loadtest.crowd.offer import offer
from loadtest.crowd.requests import NoAnswer
from loadtest.crowd.schedule import Schedule
from loadtest.drills.busy_core import busy_core
from loadtest.drills.connection_trials import PATIENCE_S, ConnectionTrials, until_at_rest
from loadtest.drills.storm_findings import (
    SOLD_OUT,
    WON,
    StormBounds,
    at_least,
    p99_finding,
    storm_findings,
    validity_finding,
)
from loadtest.findings import (
    AsJson,
    Finding,
    counts_text,
    ledger_finding,
    measure,
    medians,
    none_of,
)
from loadtest.stack import OTHER_CORE, TESTED_CORE, require_two_cores, temporary_stack
from seckill.sales.sales import Sale

#: Times the knee that is offered.
STORMS = (1.5, 2.5, 5.0)
#: Times the capacity of kept connections that is offered on such.
KEPT_FACTOR = 1.5
#: Grabs that are each the last of their connections.
CLOSED = {"Connection: close": HttpForm.CLOSE, "HTTP/1.0": HttpForm.OLD}
BY_NGINX = "1 knee / that of nginx + Lua, script only"


def main(
    seconds: Annotated[int, typer.Option(help="Length of each storm.", min=2)] = 10,
    rounds: Annotated[int, typer.Option(help="Of all of it; the medians are reported.", min=1)] = 1,
    processes: Annotated[int, typer.Option(help="Of the generator.", min=1)] = 1,
    connections: Annotated[
        int, typer.Option(help="That stay open, for the last row.", min=1)
    ] = 10_000,
    busy: Annotated[
        int, typer.Option(help="Other busy processes on the core of the server under test.", min=0)
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Offer a gateway more new connections than it can serve."""
    require_two_cores()
    measure(_connections(seconds, rounds, processes, connections, busy), as_json)


async def _connections(
    seconds: int, rounds: int, processes: int, connections: int, busy: int
) -> list[Finding]:
    require_wrk()
    others = tuple(sorted(os.sched_getaffinity(0) - {TESTED_CORE}))
    found: list[list[Finding]] = []
    async with temporary_stack(OTHER_CORE) as stack, AsyncExitStack() as peers:
        trials = ConnectionTrials(stack, processes, others)
        gateway = await stack.run("gateway", TESTED_CORE)
        missing, nginx_url = NGINX.missing(), ""
        if not missing:
            peer = running(NGINX, stack.home, stack.services.redis_url, TESTED_CORE)
            nginx_url = (await peers.enter_async_context(peer)).url
        for _ in range(rounds):
            one = _Round(trials, gateway.url, seconds)
            with busy_core(TESTED_CORE, busy):
                won = await one.storms(WON, "won")
                if missing:
                    one.findings.append(Finding(BY_NGINX, missing, "at least 1"))
                else:
                    nginx = await one.knee("nginx", url=nginx_url)
                    one.findings.append(at_least(BY_NGINX, won / nginx, 1))
                for name, form in CLOSED.items():
                    ratio = await one.knee(name, form=form) / won
                    one.findings.append(at_least(f"5 knee with {name} / kept alive", ratio, 0.9))
                await one.storms(SOLD_OUT, "sold out")
            one.findings += await _kept(trials, gateway.url, seconds, connections)
            found.append(one.findings)
    return medians(found)


class _Round:
    """Each knee, and right after it the storms above it: the machine's speed changes in minutes."""

    def __init__(self, trials: ConnectionTrials, url: str, seconds: int) -> None:
        self._trials, self._url, self._seconds = trials, url, seconds
        self.findings: list[Finding] = []

    async def knee(
        self,
        name: str,
        *,
        url: str = "",
        status: int = WON.status,
        form: HttpForm = HttpForm.KEEP_ALIVE,
    ) -> float:
        """Find a knee of the gateway, or of another server."""
        sale = await self._open_sale(status)
        knee = await self._trials.knee(url or self._url, sale, status, form)
        self.findings.append(Finding(f"knee, {name}", knee.text(), number=knee.per_s))
        return knee.per_s

    async def storms(self, bounds: StormBounds, name: str) -> float:
        """Find the gateway's knee, and offer several times as much; return the knee."""
        knee, stack = await self.knee(name, status=bounds.status), self._trials.stack
        sales: dict[str, Sale] = {}
        for factor in STORMS:
            sale = await self._open_sale(bounds.status)
            sales[f"{bounds.row} x{factor:g}, {name}: ledger"] = sale
            report = await self._trials.storm(self._url, sale, factor * knee, self._seconds)
            bound = bounds.at(factor)
            self.findings += storm_findings(report, bound, knee, factor, self._seconds)
        # Not before: they would take the generator's core.
        consumers = await stack.run("consumers")
        for ledger, sale in sales.items():
            self.findings.append(replace(ledger_finding(await stack.verify(sale)), name=ledger))
        await consumers.child.stop()
        return knee

    async def _open_sale(self, status: int) -> Sale:
        """Open a sale whose grabs are all answered so: for a 409 it is sold out, at a gateway."""
        stack = self._trials.stack
        if status != SOLD_OUT.status:
            return await stack.open_sale()
        sale = await stack.open_sale(units=1)
        await until_at_rest(self._url, sale)
        await sell_out(stack, self._url, sale)
        return sale


async def _kept(
    trials: ConnectionTrials, url: str, seconds: int, connections: int
) -> list[Finding]:
    """Offer connections that stay open more than the capacity."""
    stack = trials.stack
    free = await stack.gateway()
    capacity = await grabs_per_second(stack, free.url, 5)
    await free.child.stop()
    sale, schedule = await stack.open_sale(), Schedule(rate=KEPT_FACTOR * capacity, seconds=seconds)
    report = await offer(
        url,
        trials.plan(sale, schedule.due_times(), HttpForm.KEEP_ALIVE),
        seconds,
        sale_ids=[sale.sale_id],
        connections=connections,
        patience_s=PATIENCE_S,
        cores=trials.cores,
    )
    await stack.drop_queue()
    endings = report.endings()
    queued = sum(1 for request in report.requests if request.queued_s)
    silent = endings[NoAnswer.GAVE_UP] + endings[NoAnswer.NONE]
    name = f"4 kept connections, x{KEPT_FACTOR:g}"
    return [
        Finding(f"{name}: capacity", f"{capacity:,.0f} grabs/s (closed loop, kept connections)"),
        Finding(f"{name}: answers", counts_text(endings)),
        Finding(f"{name}: waited for a free connection", f"{queued:,} of {len(report.requests):,}"),
        none_of(f"{name}: without any answer", silent),
        p99_finding(name, report, 202, 250),
        at_least(f"{name}: goodput / capacity", report.goodput_per_s(202) / capacity, 0.45, 0.65),
        validity_finding(name, report),
    ]


if __name__ == "__main__":
    typer.run(main)
