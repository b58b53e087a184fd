"""What the commands share at the terminal: ids and `--json` in; lines, tables and JSON out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Column, Table

from seckill import order_ids
from seckill.auth import tickets
from seckill.errors import UserMistake

_ORDER_ID = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"


def check_id(text: str) -> str:
    """Return an id; raise UserMistake if it cannot be one."""
    if not tickets.ID.match(text):
        raise UserMistake(f"id {text!r}: use 1 to 64 of A-Z a-z 0-9 _ . -")
    return text


def check_optional_id(text: str | None) -> str | None:
    """Return an id, or None when none was typed; raise UserMistake if it cannot be one."""
    return None if text is None else check_id(text)


def check_ids(texts: list[str] | None) -> list[str]:
    """Return ids; raise UserMistake if one of them cannot be one."""
    return [check_id(text) for text in texts or ()]


def check_order_id(text: str) -> str:
    """Return the id of an order, in lower case; raise UserMistake if it cannot be one."""
    if not order_ids.PATTERN.match(text.lower()):
        raise UserMistake(f"order id {text!r}: an order has an id like {_ORDER_ID}")
    return text.lower()


def check_reason(text: str, use: str = "") -> None:
    """Raise UserMistake if a reason for the audit trail is empty."""
    if not text.strip():
        raise UserMistake(f"--reason: say why{use}")


#: Arguments of commands. An id is checked here, before any store is asked.
SaleId = Annotated[str, typer.Argument(metavar="ID", help="The sale's id.", callback=check_id)]
BuyerId = Annotated[str, typer.Argument(metavar="BUYER", help="The buyer's id.", callback=check_id)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def to_json(value: object) -> str:
    """Return one line of JSON: a dataclass is an object, a moment an ISO time."""
    return json.dumps(value, default=_plain)


def show(value: object, as_json: bool, *parts: RenderableType) -> None:
    """Print a result: as JSON for machines, or its parts, lines and tables, for people."""
    if as_json:
        typer.echo(to_json(value))
        return
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        else:
            Console().print(part)


def table(
    *columns: str | Column, rows: Iterable[Iterable[str]], caption: str | None = None
) -> Table:
    """Return a table."""
    made = Table(*columns, caption=caption)
    for row in rows:
        made.add_row(*row)
    return made


def open_output(out: Path | None) -> IO[str]:
    """Open the file that `--out` names, or the terminal."""
    try:
        return out.open("w") if out else sys.stdout
    except OSError as error:
        raise UserMistake(f"--out {out}: {error.strerror}") from error


def _plain(value: Any) -> object:  # noqa: ANN401 - of any type that json does not know
    return value.isoformat() if isinstance(value, datetime) else asdict(value)
