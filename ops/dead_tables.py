"""Dead letters as a person or a machine is shown them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seckill import dead_messages
from seckill.dead_letters import Letter


def describe(letter: Letter, *, whole: bool = False) -> dict[str, Any]:
    """Return a letter as JSON can say it; `whole` with its headers and its body."""
    fields = {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in asdict(letter).items()
        if whole or key not in ("body", "headers", "stack")
    }
    fields["orders"] = [order._asdict() for order in letter.orders]
    if whole:
        fields["body"] = base64.b64encode(letter.body).decode()
        fields["content"] = dead_messages.decode(letter.body)
    return fields


def letter_table(letters: Sequence[Letter]) -> Table:
    """Lay letters out, one a row."""
    table = Table("id", "queue", "sale", "orders", "state", "deaths", "replays", "last", "reason")
    for letter in letters:
        table.add_row(
            str(letter.letter_id),
            letter.queue,
            letter.sale_id or "-",
            str(len(letter.orders)),
            letter.state,
            str(letter.deaths),
            str(letter.replays),
            f"{letter.last_at:%Y-%m-%d %H:%M:%S}",
            Text(letter.reason),  # which may hold what looks like markup
        )
    return table


def print_letter(console: Console, letter: Letter, standing: Sequence[dict[str, Any]]) -> None:
    """Print all of a letter; `standing` has the orders that it names, as they are now."""
    for name, value in describe(letter, whole=True).items():
        if name not in ("orders", "body", "content") and value is not None:
            _say(console, f"{name:<15}{value}")
    content = dead_messages.decode(letter.body)
    _say(console, f"{'body':<15}{len(letter.body)} bytes{', unreadable' * (content is None)}")
    _say(console, repr(letter.body) if content is None else json.dumps(content))
    if standing:
        table = Table("order", "buyer", "quantity", "row now", "holder in Redis now")
        for order in standing:
            holder = order["holder"]
            table.add_row(
                order["order_id"],
                order["buyer_id"] or "-",
                str(order["quantity"] or "-"),
                order["row"] or "none",
                f"{holder['buyer_id']}: {holder['quantity']}" if holder else "none",
            )
        console.print(table)


def print_outcomes(outcomes: Sequence[dict[str, Any]], left: int, *, as_json: bool) -> None:
    """Print what became of letters, and how many are left."""
    if as_json:
        typer.echo(json.dumps({"letters": outcomes, "left": left}))
        return
    for outcome in outcomes:
        fates = Counter(outcome.get("orders", {}).values())
        orders = "".join(f", {count} {fate}" for fate, count in fates.items())
        units = f", {outcome['units']} units back" if outcome.get("units") else ""
        typer.echo(f"letter {outcome['letter_id']}: {outcome['outcome']}{orders}{units}")
    if left:
        typer.echo(f"{left} left; run it again for the next")
    elif not outcomes:
        typer.echo("no open letter is meant")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
