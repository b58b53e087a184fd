"""What an operator sees of transactions, and may do to one that is parked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import Missing, WrongState
from seckill.transactions.states import ENDED, TransactionState

_decode = msgspec.json.Decoder().decode

#: The states that `tx list` shows by default: those of transactions that have not ended.
OPEN = tuple(state for state in TransactionState if state not in ENDED)
#: Engine -> how a transaction can be settled, in the words of the command line.
SETTLED = {
    "tcc": {"confirmed": TransactionState.CONFIRMED, "canceled": TransactionState.CANCELED},
    "saga": {"confirmed": TransactionState.COMPLETED, "canceled": TransactionState.COMPENSATED},
}


@dataclass(frozen=True, slots=True)
class ListedTransaction:
    """One line of `tx list`."""

    tx_id: str
    engine: str
    name: str
    state: str
    step: int
    reason: str | None
    #: Attempts that failed since it last made progress.
    attempts: int
    created_at: datetime
    updated_at: datetime
    #: Its next attempt, or the end of the lease of the process that works on it.
    due_at: datetime | None
    ended_at: datetime | None
    parked_in: str | None
    owner: str
    #: The error of the operation that failed last and is not done.
    error: str | None


@dataclass(frozen=True, slots=True)
class BranchView:
    """One operation of a branch."""

    branch: str
    op: str
    attempts: int
    first_at: datetime
    last_at: datetime
    done_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class TransactionView:
    """Everything that is known of one transaction."""

    transaction: ListedTransaction
    args: dict[str, Any]
    branches: list[BranchView]


_COLUMNS = (
    "tx_id, engine, name, state, step, reason, attempts, created_at, updated_at, due_at, ended_at,"
    " parked_in, owner, (SELECT b.error FROM branches b WHERE b.tx_id = transactions.tx_id"
    " AND b.done_at IS NULL ORDER BY b.last_at DESC LIMIT 1) AS error"
)


async def list_(
    db: asyncpg.Pool, states: Sequence[TransactionState], limit: int
) -> list[ListedTransaction]:
    """Return the newest transactions in these states."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            f"SELECT {_COLUMNS} FROM transactions WHERE state = ANY ($1)"  # noqa: S608 - our names
            " ORDER BY created_at DESC LIMIT $2",
            states,
            limit,
        )
    return [ListedTransaction(**row) for row in rows]


async def show(db: asyncpg.Pool, tx_id: str) -> TransactionView:
    """Return one transaction and the operations of its branches; raise Missing if there is none.

    An operation that only the barrier has was done at its first attempt. An operation that only
    the attempts have failed, or its branch is another service.
    """
    with database_errors_as_unavailable():
        row = await _read(db, tx_id, f"SELECT {_COLUMNS}, args FROM transactions WHERE tx_id = $1")  # noqa: S608 - our names
        branches = await db.fetch(
            "SELECT branch, op, coalesce(a.attempts, 1) AS attempts,"
            "       coalesce(a.first_at, b.done_at) AS first_at,"
            "       coalesce(a.last_at, b.done_at) AS last_at,"
            "       coalesce(b.done_at, a.done_at) AS done_at, a.error"
            "  FROM (SELECT * FROM branches WHERE tx_id = $1) a"
            "  FULL JOIN (SELECT * FROM barriers WHERE tx_id = $1) b USING (branch, op)"
            " WHERE a.branch IS NOT NULL OR b.done_at IS NOT NULL"  # else the operation never came
            " ORDER BY coalesce(b.done_at, a.done_at, a.last_at), branch",
            tx_id,
        )
    fields = dict(row)
    args = _decode(fields.pop("args"))
    return TransactionView(
        ListedTransaction(**fields), args, [BranchView(**branch) for branch in branches]
    )


async def retry(db: asyncpg.Pool, tx_id: str, *, actor: str) -> ListedTransaction:
    """Let recovery go on at once with a transaction that is parked or waits."""
    async with transaction(db) as connection:
        found = await _lock(connection, tx_id)
        if found.ended_at is not None:
            raise WrongState(f"{tx_id} has ended: {found.state}; there is nothing to retry")
        await connection.execute(
            "UPDATE transactions SET state = coalesce(parked_in, state), parked_in = NULL,"
            "       attempts = 0, due_at = now(), updated_at = now() WHERE tx_id = $1",
            tx_id,
        )
        await audit.record(
            connection,
            "tx.retry",
            actor=actor,
            reason="by hand",
            details={"tx_id": tx_id, "state": found.state, "attempts": found.attempts},
        )
        return await _lock(connection, tx_id)


async def settle(
    db: asyncpg.Pool, tx_id: str, to: str, reason: str, *, actor: str
) -> ListedTransaction:
    """Close a parked transaction as "confirmed" or "canceled"; its branches are not touched.

    The operator has checked what the branches did; the audit row names the operator and reason.
    """
    async with transaction(db) as connection:
        found = await _lock(connection, tx_id)
        if found.state != TransactionState.FAILED:
            raise WrongState(
                f"{tx_id} is {found.state}, not parked; only what is parked can be settled"
            )
        state = SETTLED[found.engine][to]
        await connection.execute(
            "UPDATE transactions SET state = $2, reason = $3, ended_at = now(),"
            "       updated_at = now() WHERE tx_id = $1",
            tx_id,
            state,
            f"by hand: {reason}",
        )
        await audit.record(
            connection,
            "tx.settle",
            actor=actor,
            reason=reason,
            details={"tx_id": tx_id, "parked_in": found.parked_in, "settled": state},
        )
        return await _lock(connection, tx_id)


async def _lock(connection: asyncpg.Connection, tx_id: str) -> ListedTransaction:
    query = f"SELECT {_COLUMNS} FROM transactions WHERE tx_id = $1 FOR UPDATE"  # noqa: S608 - our names
    return ListedTransaction(**await _read(connection, tx_id, query))


async def _read(db: asyncpg.Pool | asyncpg.Connection, tx_id: str, query: str) -> asyncpg.Record:
    row = await db.fetchrow(query, tx_id)
    if row is None:
        raise Missing(f"no transaction {tx_id}; list them: seckill tx list")
    return row
