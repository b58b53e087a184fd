"""`python -m loadtest.drills.hosts`: two hosts of gateways and one of consumers, one cut off.

The hosts are network namespaces. A crowd comes to both gateways, more than the limit of the sale
lets through. In mid-sale a host is cut off for a while: first a gateway's, then the consumers'. The
limit has to hold over both gateways all the time, exactly the stock has to be sold, and each 202
has to have its row: what a cut-off gateway had accepted is sent by the role `relay`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Annotated

import typer

from loadtest.crowd.offer import offer, plan_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.schedule import Schedule
from loadtest.drills.network import Network, lacking, running_network
from loadtest.findings import (
    AsJson,
    Finding,
    all_placed,
    counts_text,
    ledger_finding,
    measure,
)
from loadtest.stack import BenchStack, temporary_stack
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

EAST, WEST, WORKS = "east", "west", "works"
CONNECTIONS = 200
#: Who has no answer for so long gives up: a host that was cut off says nothing.
PATIENCE_S = 5.0
#: Load before the cut and after it.
CALM_S = 5.0
#: How much more than the limit comes, at both gateways together.
TIMES = 1.5
#: One in so many who are refused comes back when the Retry-After is over, if it is so short.
OBEDIENT_EVERY = 50
OBEY_WITHIN_S = 4.0


def main(
    limit: Annotated[int, typer.Option(help="Grabs a second, over all gateways.", min=10)] = 1_000,
    cut: Annotated[int, typer.Option(help="Seconds for which a host is cut off.", min=1)] = 10,
    as_json: AsJson = False,
) -> None:
    """Cut off a host of gateways, then that of the consumers."""
    logging.disable()  # links of the drill itself break, too
    measure(_hosts(limit, cut), as_json)


async def _hosts(limit: int, cut: int) -> list[Finding]:
    if reason := await lacking():
        raise SeckillError(reason)
    found: list[Finding] = []
    async with (
        temporary_stack() as stack,
        running_network(stack.home, stack.environment, EAST, WEST, WORKS) as network,
    ):
        await network.run(EAST, "gateway")
        await network.run(WEST, "gateway")
        await network.run(WORKS, "consumers")
        first = 0
        for host in (EAST, WORKS):
            found += await _sold_while(stack, network, host, limit, cut, first)
            first += 1_000_000  # gateways count what a buyer does in all sales
    return found


async def _sold_while(
    stack: BenchStack, network: Network, host: str, limit: int, cut: int, first: int
) -> list[Finding]:
    """Sell while a host is cut off; return what is to be reported."""
    seconds = 2 * CALM_S + cut
    # Sold out some seconds before the end: the latches of both gateways are seen at work, too.
    calm_s, half = 1.5 * CALM_S, TIMES / 2  # one gateway gets half of what comes
    sale = await stack.open_sale(units=int(limit * (calm_s + half * cut)))
    bound = await stack.limit(sale, limit)
    schedule = Schedule(rate=TIMES * limit / 2, seconds=seconds)
    began_at = time.monotonic()
    crowds = [
        asyncio.create_task(
            _offer(stack, network.url(gateway), sale, schedule, first + n * 500_000)
        )
        for n, gateway in enumerate((EAST, WEST))
    ]
    await asyncio.sleep(CALM_S)
    async with network.cut_off(host):
        await asyncio.sleep(cut)
    reports = await asyncio.gather(*crowds)
    span_s = time.monotonic() - began_at
    zipped = list(zip((EAST, WEST), reports, strict=True))
    requests = [request for report in reports for request in report.requests]
    ledger = await stack.verify(sale)
    rows = "SELECT count(*) FROM orders WHERE sale_id = $1"
    placed = await stack.db.fetchval(rows, sale.sale_id)
    won = sum(len(report.answered(202)) for report in reports)
    most = bound.rate * span_s + bound.burst
    name = f"{host} cut off for {cut} s"
    return [
        *(
            Finding(f"{name}: answers of {gateway}", counts_text(report.endings()))
            for gateway, report in zipped
        ),
        Finding(f"{name}: accepted by both", f"{won:,}", f"at most {most:,.0f}", won <= most),
        all_placed(f"{name}: orders", placed, won),
        Finding(
            f"{name}: came back in their turn",
            counts_text(Counter(str(r.ending) for r in requests if r.comes_back)),
        ),
        Finding(
            f"{name}: gateways that knew of the end",
            counts_text({gateway: len(report.answered(409)) for gateway, report in zipped}),
            "both",
            all(report.answered(409) for report in reports),
        ),
        ledger_finding(ledger),
    ]


async def _offer(
    stack: BenchStack, url: str, sale: Sale, schedule: Schedule, first: int
) -> CrowdReport:
    requests = plan_grabs(stack, [sale], schedule.due_times(), first)
    for request in requests[::OBEDIENT_EVERY]:
        request.obeys_within_s = OBEY_WITHIN_S
    return await offer(
        url,
        requests,
        schedule.seconds,
        sale_ids=[sale.sale_id],
        connections=CONNECTIONS,
        patience_s=PATIENCE_S,
    )


if __name__ == "__main__":
    typer.run(main)
