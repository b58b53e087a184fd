"""`seckill tx`: the transactions that are open or parked, and what a person can do about them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Column

from ops.cli.console import Json, check_reason, show, table
from ops.cli.stores import run
from seckill import audit
from seckill.transactions import manual
from seckill.transactions.manual import ListedTransaction
from seckill.transactions.states import TransactionState

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
    found = run(lambda s: manual.list_(s.db, state or manual.OPEN, limit))
    rows = [
        (
            each.tx_id,
            each.name,
            _state(each),
            str(each.attempts),
            _moment(each.created_at),
            _moment(each.due_at),
            (each.reason if each.ended_at else each.error or each.reason) or "",
        )
        for each in found
    ]
    columns = _columns("transaction", "of", "state", "failed", "begun", "next attempt", "why")
    caption = "failed: attempts since it last made progress; times are UTC"
    shown = table(*columns, rows=rows, caption=caption) if found else "no transactions"
    show(found, as_json, shown)


@tx_app.command("show")
def show_one(tx_id: TxId, as_json: Json = False) -> None:
    """Show one transaction, with every operation of its branches."""
    found = run(lambda s: manual.show(s.db, tx_id))
    each = found.transaction
    facts = {
        "transaction": f"{each.tx_id} ({each.engine} {each.name})",
        "state": _state(each),
        "reason": each.reason,
        "begun": _moment(each.created_at),
        "ended": _moment(each.ended_at),
        "next attempt": _moment(each.due_at),
        "failed attempts": each.attempts or None,
        "worked on by": each.owner,
        "args": json.dumps(found.args),
    }
    rows = []
    for b in found.branches:
        times = (_moment(moment) for moment in (b.first_at, b.last_at, b.done_at))
        rows.append((b.branch, b.op, str(b.attempts), *times, b.error or ""))
    columns = _columns("branch", "operation", "attempts", "first", "last", "done", "last error")
    show(
        {**asdict(each), "args": found.args, "branches": found.branches},
        as_json,
        *(f"{name:<16}{value}" for name, value in facts.items() if value),
        table(*columns, rows=rows, caption="times are UTC"),
    )


@tx_app.command("retry")
def retry(tx_id: TxId, as_json: Json = False) -> None:
    """Try a parked transaction again, or one that waits, at once (by the role `recover`)."""
    actor = audit.operator_name()
    each = run(lambda s: manual.retry(s.db, tx_id, actor=actor))
    show(each, as_json, f"{each.tx_id} goes on: {_state(each)}")


@tx_app.command("settle")
def settle(
    tx_id: TxId,
    to: Annotated[SettleAs, typer.Option(help="How it ended.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")],
    as_json: Json = False,
) -> None:
    """Close a parked transaction by hand. Nothing is done at its branches: that is up to you."""
    check_reason(reason)
    actor = audit.operator_name()
    each = run(lambda s: manual.settle(s.db, tx_id, to, reason, actor=actor))
    show(each, as_json, f"{each.tx_id} is settled: {_state(each)}")


def _columns(first: str, *others: str) -> list[Column]:
    """Return columns of which the first can be copied whole, however narrow the terminal is."""
    return [Column(first, no_wrap=True), *(Column(name, overflow="fold") for name in others)]


def _state(each: ListedTransaction) -> str:
    step = f", step {each.step + 1}" if each.engine == "saga" and each.ended_at is None else ""
    parked = f" while {each.parked_in}" if each.state == TransactionState.FAILED else ""
    return f"{each.state}{parked}{step}"


def _moment(moment: datetime | None) -> str:
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds")[:-6] if moment else ""
