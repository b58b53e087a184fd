"""`python -m loadtest.bench.order_costs`: CPU time of all processes for one order, socket to row.

All of them: gateway, consumers, Redis, RabbitMQ and PostgreSQL, on both cores, without the
generator. Every buyer comes with a connection of their own. At a low rate the fixed cost of a call,
a message and a transaction counts; at a high one, what a grab itself costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from loadtest.bench.sides import Side
from loadtest.crowd.generator_processes import offer_each
from loadtest.crowd.offer import offer, plan_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.findings import AsJson, Finding, check_output, measure, origin
from loadtest.stack import BenchStack, Process, cpu_s_of_trees, require_two_cores, temporary_stack
from ops.sizing import PARTS, Cost, PartCosts
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

#: Orders a second at which the cost is taken.
RATES = (500, 4_000)
#: More buyers than come in one run.
BUYERS_MAX = 1_000_000
#: Connections that are kept.
KEPT = 200
#: How long a buyer waits for an answer.
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class OrderCosts:
    """Measures what an order costs all processes of a stack."""

    stack: BenchStack
    gateway: Process
    seconds: int
    #: Whether buyers share connections that are kept, as a proxy's; else each opens one.
    kept: bool = False
    #: Numbers of the first buyers: gateways count what a buyer does in all sales.
    _firsts: Iterator[int] = field(default_factory=lambda: itertools.count(0, BUYERS_MAX))

    async def cost_us(self, rate: float) -> float:
        """Return the microseconds of CPU time an order at this rate."""
        return sum((await self.part_costs_us(rate)).values())

    async def part_costs_us(self, rate: float) -> dict[str, float]:
        """Return the same by part: `gateway`, `consumers`, and the stores."""
        sale = await self.stack.open_sale()
        dues = [n / rate for n in range(int(rate * self.seconds))]
        requests = plan_grabs(self.stack, [sale], dues, next(self._firsts))
        before = self._cpu_s()
        report = await self._offer(requests, sale)
        ledger = await self.stack.verify(sale)
        after = self._cpu_s()
        if not ledger.balanced:
            raise SeckillError(f"the ledger does not balance: {'; '.join(ledger.violations)}")
        orders = len(report.answered(202))
        if orders < 0.99 * len(dues):
            raise SeckillError(f"of {len(dues):,} grabs at {rate:,.0f}/s {orders:,} were accepted")
        return {part: (after[part] - before[part]) / orders * 1e6 for part in after}

    async def refusal_cost_us(self, rate: float) -> float:
        """Return what a 409 costs the gateway at this rate: nothing but the gateway has work."""
        sale = await self.stack.open_sale(units=1)
        dues = [n / rate for n in range(int(rate * self.seconds))]
        first = next(self._firsts)
        await self._offer(plan_grabs(self.stack, [sale], [0.0], first), sale)
        requests = plan_grabs(self.stack, [sale], dues, first + 1)
        before = self.gateway.cpu_s()
        report = await self._offer(requests, sale)
        refused = len(report.answered(409))
        if refused < 0.99 * len(dues):
            raise SeckillError(f"of {len(dues):,} grabs at {rate:,.0f}/s {refused:,} got a 409")
        return (self.gateway.cpu_s() - before) / refused * 1e6

    async def _offer(self, requests: Sequence[PlannedRequest], sale: Sale) -> CrowdReport:
        if self.kept:
            return await offer(
                self.gateway.url, requests, self.seconds, sale_ids=[sale.sale_id], connections=KEPT
            )
        return await offer_each(
            self.gateway.url, requests, self.seconds, patience_s=PATIENCE_S, sale_ids=[sale.sale_id]
        )

    def _cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds by part: of all processes, and of those that they have started."""
        stores = self.stack.services.stores.items()
        parts = {name: list(store.children) for name, store in stores}
        for child in self.stack.children:
            parts.setdefault(child.name.rpartition("-")[0], []).append(child)
        return {
            part: cpu_s_of_trees(child.pid for child in children if child.pid)
            for part, children in parts.items()
        }


async def cost_sides(stack: BenchStack, seconds: int) -> dict[str, Side]:
    """Return a side for each rate, on a gateway and a consumer of their own."""
    gateway = await stack.run("gateway")
    await stack.run("consumers")
    costs = OrderCosts(stack, gateway, seconds)

    def side(rate: int) -> Side:
        return Side(f"CPU of all processes an order at {rate:,}/s, us", lambda: costs.cost_us(rate))

    return {f"cost_{rate}": side(rate) for rate in RATES}


def main(
    runs: Annotated[int, typer.Option(help="Interleaved runs of each rate.", min=1)] = 5,
    seconds: Annotated[int, typer.Option(help="Length of one run.", min=2)] = 5,
    rates: Annotated[
        tuple[int, int], typer.Option(help="The low and the high rate, a second.")
    ] = RATES,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write costs by part, for `seckill plan --costs`.", callback=check_output
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what an order costs all processes, at a low and a high rate."""
    require_two_cores()
    if out is not None:
        measure(_write(out, rates, runs, seconds), as_json)
    measure(_costs(runs, seconds), as_json)


async def _write(out: Path, rates: tuple[int, int], runs: int, seconds: int) -> list[Finding]:
    async with temporary_stack() as stack:
        found = await measured_costs(stack, rates, runs, seconds)
    found.write(out)
    costs = {**found.won, "a refusal": found.refused}
    return [
        Finding(part, f"{cost.fixed:,.0f} us a second, {cost.each:,.1f} us each")
        for part, cost in costs.items()
    ]


async def measured_costs(
    stack: BenchStack, rates: tuple[int, int], runs: int, seconds: int
) -> PartCosts:
    """Return what orders and refusals cost, by medians of interleaved runs at both rates."""
    gateway = await stack.run("gateway")
    await stack.run("consumers")
    firsts = itertools.count(0, BUYERS_MAX)
    costs = OrderCosts(stack, gateway, seconds, kept=True, _firsts=firsts)
    own = OrderCosts(stack, gateway, seconds, _firsts=firsts)
    won: list[dict[int, dict[str, float]]] = []
    refused: list[dict[int, float]] = []
    low, high = rates
    connections: list[float] = []
    for _ in range(runs):
        won.append({rate: await costs.part_costs_us(rate) for rate in rates})
        refused.append({rate: await costs.refusal_cost_us(rate) for rate in rates})
        with_own = await own.part_costs_us(high)
        connections.append(with_own["gateway"] - won[-1][high]["gateway"])

    def middle(part: str, rate: int) -> tuple[float, float]:
        return rate, median(run[rate][part] for run in won)

    def refusal(rate: int) -> tuple[float, float]:
        return rate, median(run[rate] for run in refused)

    about = origin("costs", await stack.versions())
    return PartCosts(
        f"{about['measured_at']}, {about['machine']}, {low:,} and {high:,} orders/s",
        {part: Cost.of(middle(part, low), middle(part, high)) for part in PARTS},
        Cost.of(refusal(low), refusal(high)),
        max(0.0, median(connections)),
    )


async def _costs(runs: int, seconds: int) -> list[Finding]:
    async with temporary_stack() as stack:
        sides = await cost_sides(stack, seconds)
        for _ in range(runs):
            for side in sides.values():
                await side.run()
    return [Finding(side.name, _text(side.figures)) for side in sides.values()]


def _text(figures: list[float]) -> str:
    return f"{median(figures):,.0f} ({min(figures):,.0f} .. {max(figures):,.0f})"


if __name__ == "__main__":
    typer.run(main)
