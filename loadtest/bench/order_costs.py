"""`python -m loadtest.bench.order_costs`: CPU time of all processes for one order, socket to row.

All of them: gateway, consumers, Redis, RabbitMQ and PostgreSQL, on both cores, without the
generator. Every buyer comes with a connection of their own. At a low rate the fixed cost of a call,
a message and a transaction counts; at a high one, what a grab itself costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

import typer

from loadtest.bench.sides import Side
from loadtest.crowd.generator_processes import offer_each
from loadtest.crowd.offer import plan_grabs
from loadtest.findings import AsJson, Finding, measure
from loadtest.stack import BenchStack, Process, cpu_s_of_trees, require_two_cores, temporary_stack
from seckill.errors import SeckillError

#: Orders a second at which the cost is taken.
RATES = (500, 4_000)
#: More buyers than come in one run.
BUYERS_MAX = 1_000_000
#: How long a buyer waits for an answer.
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class OrderCosts:
    """Measures what an order costs all processes of a stack."""

    stack: BenchStack
    gateway: Process
    seconds: int
    #: Numbers of the first buyers: gateways count what a buyer does in all sales.
    _firsts: Iterator[int] = field(default_factory=lambda: itertools.count(0, BUYERS_MAX))

    async def cost_us(self, rate: float) -> float:
        """Return the microseconds of CPU time an order at this rate."""
        sale = await self.stack.open_sale()
        dues = [n / rate for n in range(int(rate * self.seconds))]
        requests = plan_grabs(self.stack, [sale], dues, next(self._firsts))
        before = self._cpu_s()
        report = await offer_each(
            self.gateway.url, requests, self.seconds, patience_s=PATIENCE_S, sale_ids=[sale.sale_id]
        )
        ledger = await self.stack.verify(sale)
        after = self._cpu_s()
        if not ledger.balanced:
            raise SeckillError(f"the ledger does not balance: {'; '.join(ledger.violations)}")
        orders = len(report.answered(202))
        if orders < 0.99 * len(dues):
            raise SeckillError(f"of {len(dues):,} grabs at {rate:,.0f}/s {orders:,} were accepted")
        return (after - before) / orders * 1e6

    def _cpu_s(self) -> float:
        """Return the CPU seconds of all processes, and of those that they have started."""
        children = [*self.stack.children, *self.stack.services.children]
        return cpu_s_of_trees(child.pid for child in children if child.pid)


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
    as_json: AsJson = False,
) -> None:
    """Measure what an order costs all processes, at a low and a high rate."""
    require_two_cores()
    measure(_costs(runs, seconds), as_json)


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
