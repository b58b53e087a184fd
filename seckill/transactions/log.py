"""The log: every process writes it before it acts, and recovery goes on from it.

Every method writes or reads many transactions in one statement, which is one commit, so the log
costs a few fsyncs per hundreds of transactions. Changes of state are compare-and-set: a method
returns the transactions that it changed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence

import asyncpg
import msgspec

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.transactions.states import (
    AttemptNote,
    BranchCall,
    LoggedTransaction,
    SagaMove,
    SagaPosition,
    TransactionOutcome,
    TransactionState,
)

#: So long no other process takes a transaction. It is longer than all stages with a time limit or
#: two run out, and short because the buyers of a killed process wait for it. Correctness does not
#: depend on it: the barrier holds when two processes work on one transaction.
LEASE_S = 10.0

_BEGIN = """
WITH new AS (
  INSERT INTO transactions (tx_id, engine, name, state, args, owner, due_at)
  SELECT t.tx_id, $3, $4, $5, t.args, $6, now() + make_interval(secs => $7)
    FROM unnest($1::text[], $2::jsonb[]) AS t (tx_id, args) ORDER BY t.tx_id COLLATE "C"
  ON CONFLICT (tx_id) DO NOTHING RETURNING tx_id)
SELECT array_agg(tx_id) FROM new
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class TransactionLog:
    """The tables `transactions` and `branches`, written by one process."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
        #: The owner of the leases.
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"

    async def begin(
        self,
        engine: str,
        name: str,
        state: TransactionState,
        calls: Sequence[BranchCall],
        *,
        lease_s: float = LEASE_S,
        connection: asyncpg.Connection | None = None,
    ) -> dict[str, TransactionOutcome]:
        """Write transactions down; return the outcomes of those that were in the log before.

        Recovery takes the new ones when the lease is over. With a connection they become part of
        its transaction.
        """
        ids = [call.tx_id for call in calls]
        args = [_encode(call.args).decode() for call in calls]
        run = connection or self._db
        with database_errors_as_unavailable():
            new = await run.fetchval(_BEGIN, ids, args, engine, name, state, self.owner, lease_s)
            if new and len(new) == len(calls):
                return {}
            rows = await run.fetch(
                "SELECT tx_id, state, reason FROM transactions WHERE tx_id = ANY ($1)",
                list(set(ids).difference(new or ())),
            )
        return {
            row["tx_id"]: TransactionOutcome(TransactionState(row["state"]), row["reason"])
            for row in rows
        }

    async def decide(self, decisions: Mapping[str, TransactionOutcome]) -> set[str]:
        """Decide transactions; return those that are now as decided. A repeat does no harm.

        A coordinator and recovery race for this compare-and-set: the one that comes second, with
        another decision, gets nothing back.
        """
        with database_errors_as_unavailable():
            decided = await self._db.fetchval(
                "SELECT decide_transactions($1, $2, $3)",
                list(decisions),
                [outcome.state for outcome in decisions.values()],
                [outcome.reason for outcome in decisions.values()],
            )
        return set(decided or ())

    async def end(
        self, tx_ids: Sequence[str], state: TransactionState, to_state: TransactionState
    ) -> None:
        """Close transactions whose branches have all finished, whatever process owns them."""
        with database_errors_as_unavailable():
            await self._db.execute("SELECT end_transactions($1, $2, $3)", tx_ids, state, to_state)

    async def put_off(self, waits_s: Mapping[str, float]) -> None:
        """Let recovery take own transactions after a wait in seconds, not after the lease."""
        with database_errors_as_unavailable():
            await self._db.execute(
                "SELECT put_off_transactions($1, $2, $3)",
                list(waits_s),
                list(waits_s.values()),
                self.owner,
            )

    async def hold(self, tx_ids: Sequence[str], wait_s: float) -> None:
        """Let recovery take own transactions after a wait; it counts as no attempt."""
        with database_errors_as_unavailable():
            await self._db.execute(
                "UPDATE transactions SET due_at = now() + make_interval(secs => $2)"
                " WHERE tx_id = ANY ($1) AND owner = $3 AND due_at IS NOT NULL",
                tx_ids,
                wait_s,
                self.owner,
            )

    async def park(self, tx_ids: Sequence[str]) -> None:
        """Park own transactions for an operator."""
        with database_errors_as_unavailable():
            await self._db.execute(
                "UPDATE transactions SET state = 'FAILED', parked_in = state, due_at = NULL,"
                "       attempts = attempts + 1, updated_at = now()"
                " WHERE tx_id = ANY ($1) AND owner = $2 AND due_at IS NOT NULL",
                tx_ids,
                self.owner,
            )

    async def take_due(self, names: Iterable[str], limit: int) -> list[LoggedTransaction]:
        """Take transactions by definition whose lease or wait is over, oldest first."""
        with database_errors_as_unavailable():
            rows = await self._db.fetch(
                "SELECT * FROM take_due_transactions($1, $2, $3, $4)",
                list(names),
                limit,
                self.owner,
                LEASE_S,
            )
        return [_taken(row) for row in rows]

    async def claim(self, name: str, positions: Sequence[SagaPosition]) -> list[LoggedTransaction]:
        """Take the Sagas that are still where a message says, whatever process owned them."""
        with database_errors_as_unavailable():
            rows = await self._db.fetch(
                "SELECT * FROM claim_sagas($1, $2, $3, $4, $5, $6)",
                name,
                [p.tx_id for p in positions],
                [p.state for p in positions],
                [p.step for p in positions],
                self.owner,
                LEASE_S,
            )
        return [_taken(row) for row in rows]

    async def advance(self, moves: Sequence[SagaMove]) -> set[str]:
        """Move Sagas on; return those that were still at the position given."""
        with database_errors_as_unavailable():
            moved = await self._db.fetchval(
                "SELECT advance_sagas($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                [m.position.tx_id for m in moves],
                [m.position.state for m in moves],
                [m.position.step for m in moves],
                [m.to_state for m in moves],
                [m.to_step for m in moves],
                [m.ended for m in moves],
                [m.reason for m in moves],
                self.owner,
                LEASE_S,
            )
        return set(moved or ())

    async def note(self, notes: Sequence[AttemptNote]) -> None:
        """Count attempts at branch operations."""
        with database_errors_as_unavailable():
            await self._db.execute(
                "SELECT note_attempts($1, $2, $3, $4)",
                [n.tx_id for n in notes],
                [n.branch for n in notes],
                [n.op for n in notes],
                [n.error for n in notes],
            )

    async def parked(self) -> int:
        """Count the transactions that wait for an operator."""
        with database_errors_as_unavailable():
            return int(
                await self._db.fetchval(
                    "SELECT count(*) FROM transactions WHERE due_at IS NULL AND ended_at IS NULL"
                )
            )

    async def remove_ended(self, older_than_s: float, limit: int) -> int:
        """Remove transactions that ended long ago, with all their rows; return how many."""
        with database_errors_as_unavailable():
            return int(
                await self._db.fetchval("SELECT remove_transactions($1, $2)", older_than_s, limit)
            )


def _taken(row: asyncpg.Record) -> LoggedTransaction:
    return LoggedTransaction(
        row["tx_id"],
        row["name"],
        TransactionState(row["state"]),
        row["step"],
        _decode(row["args"]),
        row["reason"],
        row["attempts"],
        int(row["created_at"].timestamp() * 1e9),
    )
