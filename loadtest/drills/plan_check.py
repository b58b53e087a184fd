"""`python -m loadtest.drills.plan_check`: the rate that `seckill plan` predicts, and the real one.

The costs of orders are measured at two rates that this machine takes easily. From them follows the
rate at which all parts together, and the generator, take all cores. Then wrk grabs as fast as it
can, and the orders that land in PostgreSQL are counted. Run it on a machine with nothing else to
do: what others take is in neither figure.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from loadtest.bench.order_costs import RATES, measured_costs
from loadtest.bench.order_sides import all_the_way
from loadtest.bench.wrk import require_wrk
from loadtest.findings import AsJson, Finding, ledger_finding, measure
from loadtest.stack import temporary_stack
from ops.sizing import CORE_US, highest_rate

#: How far the measured rate may be from the predicted one.
TOLERANCE = 0.25


def main(
    runs: Annotated[int, typer.Option(help="Runs at each rate.", min=1)] = 3,
    seconds: Annotated[int, typer.Option(help="Length of one run.", min=2)] = 5,
    rates: Annotated[
        tuple[int, int], typer.Option(help="The low and the high rate, a second.")
    ] = RATES,
    as_json: AsJson = False,
) -> None:
    """Compare the predicted rate of orders with the measured one."""
    require_wrk()
    measure(_check(runs, seconds, rates), as_json)


async def _check(runs: int, seconds: int, rates: tuple[int, int]) -> list[Finding]:
    async with temporary_stack() as stack:
        costs = await measured_costs(stack, rates, runs, seconds)
    async with temporary_stack() as stack:
        gateway = await stack.gateway(core=None)
        sale = await stack.open_sale()
        measured, grabbed = await all_the_way(stack, gateway, sale, seconds)
        ledger = await stack.verify(sale)
    orders = ledger.lines["orders pending"]
    cores = len(os.sched_getaffinity(0))
    predicted = highest_rate(costs, cores, grabbed.cpu_s / max(1, grabbed.grabs) * CORE_US)
    error = measured / predicted - 1 if predicted > 0 else -1.0
    each = sum(cost.each for cost in costs.won.values())
    return [
        Finding("costs", f"{each:.1f} us of CPU an order, all parts together"),
        Finding("predicted", f"{predicted:,.0f} orders/s on {cores} cores"),
        Finding("measured", f"{measured:,.0f} orders/s, of {orders:,}"),
        Finding(
            "measured by predicted",
            f"{error:+.0%}",
            f"within {TOLERANCE:.0%}",
            abs(error) <= TOLERANCE,
        ),
        ledger_finding(ledger),
    ]


if __name__ == "__main__":
    typer.run(main)
