"""`seckill verify`: the ledger of a sale, counted from the stores."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ops.cli.console import Json, check_id, show
from ops.cli.stores import Stores, run
from seckill.consistency import verify as ledgers
from seckill.consistency.verify import Ledger
from seckill.errors import UserMistake
from seckill.sales import sales


def verify(
    sale_id: Annotated[
        str, typer.Argument(metavar="SALE", help="The sale's id.", callback=check_id)
    ],
    wait: Annotated[float, typer.Option(help="Seconds to wait for quiet.", min=0)] = 0.0,
    as_json: Json = False,
) -> None:
    """Count the ledger of a sale from the stores; exit 1 unless it balances."""
    if math.isnan(wait):
        raise UserMistake("--wait: give a number of seconds")

    async def look(stores: Stores) -> Ledger:
        await sales.find(stores.db, sale_id)  # is there such a sale?
        async with stores.provider() as provider:
            return await ledgers.verify(
                stores.redis, stores.db, sale_id, wait_s=wait, provider=provider
            )

    ledger = run(look)
    show(ledger.summary(), as_json, shown(sale_id, ledger))
    if not ledger.balanced:
        raise typer.Exit(1)


def shown(sale_id: str, ledger: Ledger) -> Group:
    """Return a ledger as a table, with its verdict."""
    numbers = Table("line", "number", title=f"ledger of {sale_id}", min_width=40)
    numbers.columns[1].justify = "right"
    for name, number in ledger.lines.items():
        numbers.add_row(name, str(number))
    violations = (Text.assemble(("violation", "red"), f" {text}") for text in ledger.violations)
    verdict = Text("balanced", "green") if ledger.balanced else Text("NOT balanced", "red")
    return Group(numbers, *violations, verdict)
