"""`seckill tx`: the transactions that are open or parked, and what a person can do about them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from rich.console import Console
from rich.table import Column, Table

from config.settings import load_settings
from ops.cli.stores import Json
from seckill.adapters import postgres
from seckill.errors import UserMistake
from seckill.transactions import manual
from seckill.transactions.manual import ListedTransaction, TransactionView
from seckill.transactions.states import TransactionState

T = TypeVar("T")

tx_app = typer.Typer(help="Show, retry and settle transactions.", no_args_is_help=True)

TxId = Annotated[str, typer.Argument(metavar="ID", help="The transaction's id.")]


class SettleAs(StrEnum):
    """What a transaction can be settled as."""

    CONFIRMED = "confirmed"
    CANCELED = "canceled"


@tx_app.command("list")
def list_(
    state: Annotated[
        list[TransactionState] | None,
        typer.Option(help="Only these states; else all that have not ended.", case_sensitive=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List transactions: those that have not ended, or those in some states."""
    found = _run(lambda db: manual.list_(db, state or manual.OPEN, limit))
    if as_json:
        typer.echo(json.dumps([_plain(each) for each in found]))
        return
    if not found:
        typer.echo("no transactions")
        return
    table = _table("transaction", "of", "state", "failed", "begun", "next attempt", "why")
    table.caption = "failed: attempts since it last made progress; times are UTC"
    for each in found:
        table.add_row(
            each.tx_id,
            each.name,
            _state(each),
            str(each.attempts),
            _moment(each.created_at),
            _moment(each.due_at),
            each.reason if each.ended_at else each.error or each.reason,
        )
    Console().print(table)


@tx_app.command("show")
def show(tx_id: TxId, as_json: Json = False) -> None:
    """Show one transaction, with every operation of its branches."""
    _show(_run(lambda db: manual.show(db, tx_id)), as_json)


@tx_app.command("retry")
def retry(tx_id: TxId, as_json: Json = False) -> None:
    """Try a parked transaction again, or one that waits, at once (by the role `recover`)."""
    _say(_run(lambda db: manual.retry(db, tx_id)), "goes on", as_json)


@tx_app.command("settle")
def settle(
    tx_id: TxId,
    to: Annotated[SettleAs, typer.Option(help="How it ended.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")],
    as_json: Json = False,
) -> None:
    """Close a parked transaction by hand. Nothing is done at its branches: that is up to you."""
    if not reason.strip():
        raise UserMistake("--reason: say why")
    _say(_run(lambda db: manual.settle(db, tx_id, to, reason)), "is settled", as_json)


def _run(work: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
    async def go() -> T:
        settings = load_settings()
        settings.require_stores()
        async with postgres.connect(
            settings.postgres_dsn, size=1, timeout_s=settings.connect_timeout_s
        ) as db:
            return await work(db)

    return asyncio.run(go())


def _show(shown: TransactionView, as_json: bool) -> None:
    each = shown.transaction
    if as_json:
        branches = [_plain(branch) for branch in shown.branches]
        typer.echo(json.dumps({**_plain(each), "args": shown.args, "branches": branches}))
        return
    console = Console()
    lines = {
        "transaction": f"{each.tx_id} ({each.engine} {each.name})",
        "state": _state(each),
        "reason": each.reason,
        "begun": _moment(each.created_at),
        "ended": _moment(each.ended_at),
        "next attempt": _moment(each.due_at),
        "failed attempts": each.attempts or None,
        "worked on by": each.owner,
        "args": json.dumps(shown.args),
    }
    for name, value in lines.items():
        if value:
            console.print(f"{name:<16}{value}", highlight=False, soft_wrap=True, markup=False)
    table = _table("branch", "operation", "attempts", "first", "last", "done", "last error")
    table.caption = "times are UTC"
    for b in shown.branches:
        times = (_moment(moment) for moment in (b.first_at, b.last_at, b.done_at))
        table.add_row(b.branch, b.op, str(b.attempts), *times, b.error or "")
    console.print(table)


def _table(first: str, *others: str) -> Table:
    """Make a table whose first column can be copied whole, however narrow the terminal is."""
    return Table(Column(first, no_wrap=True), *(Column(name, overflow="fold") for name in others))


def _say(each: ListedTransaction, what: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_plain(each)))
    else:
        typer.echo(f"{each.tx_id} {what}: {_state(each)}")


def _state(each: ListedTransaction) -> str:
    step = f", step {each.step + 1}" if each.engine == "saga" and each.ended_at is None else ""
    parked = f" while {each.parked_in}" if each.state == TransactionState.FAILED else ""
    return f"{each.state}{parked}{step}"


def _moment(moment: datetime | None) -> str:
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds")[:-6] if moment else ""


def _plain(record: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the records of by_hand
    fields = asdict(record)
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in fields.items()}
