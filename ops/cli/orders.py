"""`seckill order`: what the stores have of one order."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC
from typing import Annotated

import typer

from ops.cli.console import Json, check_order_id, show
from ops.cli.stores import run
from seckill.consistency import order_life

order_app = typer.Typer(help="Show what the stores have of one order.", no_args_is_help=True)


@order_app.callback()
def _group() -> None:
    """Keep `show` a command of its own while it is the only one."""


@order_app.command("show")
def show_one(
    order_id: Annotated[
        str, typer.Argument(metavar="ORDER_ID", help="The order.", callback=check_order_id)
    ],
    as_json: Json = False,
) -> None:
    """Show an order's whole life: holder, row, payments, steps, dead letters, audit, events."""
    life = run(lambda s: order_life.of_order(s.redis, s.db, order_id))
    facts = {
        "order": life.order_id,
        "sale": life.sale_id,
        "buyer": life.buyer_id,
        "state": life.state,
        "in Redis": life.holder or "no holder",
        "trace": life.trace_id,
    }
    lines = []
    for moment in life.moments:
        at = moment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        details = json.dumps(moment.details) if moment.details else ""
        lines.append(f"{at}  {moment.what}  {details}".rstrip())
    show(
        asdict(life),
        as_json,
        *(f"{name:<10}{value}" for name, value in facts.items() if value),
        *lines,
    )
