"""`seckill plan`: how many processes and cores a sale needs."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from ops import sizing
from ops.cli.console import Json, show
from ops.sizing import PLANNED_SHARE, PartCosts, Sizing
from seckill.errors import UserMistake

FORMULA = (
    f"processes = rate x us each / ({PLANNED_SHARE:g} x 1,000,000 - us fixed); "
    "cores = (us fixed + rate x us each) / 1,000,000"
)


def plan(
    buyers: Annotated[int, typer.Option(help="Buyers who press once each.", min=1)],
    stock: Annotated[int, typer.Option(help="Units for sale.", min=1)],
    seconds: Annotated[float, typer.Option(help="Time in which they all press.", min=0.1)],
    placed_within: Annotated[
        float, typer.Option(help="Seconds until every order is in PostgreSQL.", min=1)
    ] = 10.0,
    kept_connections: Annotated[
        bool, typer.Option(help="Proxies keep connections; else each buyer opens one.")
    ] = False,
    costs: Annotated[
        Path | None,
        typer.Option(help="PartCosts measured elsewhere: loadtest.bench.order_costs --out FILE."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan gateways, consumers and stores for a sale, from what a grab was measured to cost."""
    if not (isfinite(seconds) and isfinite(placed_within)):
        raise UserMistake("--seconds and --placed-within: give a number of seconds")
    known = PartCosts.read(costs)
    found = sizing.plan(
        known,
        buyers=buyers,
        stock=stock,
        seconds=seconds,
        placed_within_s=placed_within,
        kept_connections=kept_connections,
    )
    plain = {
        **asdict(found),
        "grabs_per_s": found.grabs_per_s,
        "formula": FORMULA,
        "costs": asdict(known),
    }
    show(plain, as_json, _shown(found, known))


def _shown(found: Sizing, costs: PartCosts) -> Group:
    table = Table(
        "part",
        "processes",
        "cores",
        "why",
        title=f"{found.buyers:,} buyers in {found.seconds:g} s ({found.grabs_per_s:,.0f} grabs/s)"
        f" for {found.stock:,} units",
    )
    for need in found.needs:
        table.add_row(need.part, f"{need.processes:,}", f"{need.cores:.1f}", need.why)
    lines = [*found.bounds, FORMULA, f"costs: {costs.origin}"]
    return Group(table, *(f"- {line}" for line in lines))
