"""The barrier: each operation of a branch takes effect once, and never in the wrong order.

One row per transaction, branch and operation, inserted in the branch's own transaction. Three
things can go wrong between a coordinator and its branches, and the unique key catches all of them:

| arrives | found | then |
|---|---|---|
| an operation again | its own row | done before: skip |
| a cancel whose try never came | no row of the try, and writes one | empty cancel: skip |
| the try after that | the row that the cancel wrote | late: refuse |

A second session that inserts the same key waits until the first has committed or rolled back, so
the answer is right even when both run at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from seckill.transactions.states import UNDOES, BranchCall, BranchOp

#: The reason for which a late try is refused.
LATE = "late"

_UNDONE_BY = {undone: op for op, undone in UNDOES.items()}

# Sorted, so that two sessions with the same keys wait for each other in one order.
_ENTER = """
WITH passed AS (
  INSERT INTO barriers (tx_id, branch, op)
  SELECT t, $2, $3 FROM unnest($1::text[]) AS t ORDER BY t COLLATE "C"
  ON CONFLICT DO NOTHING RETURNING tx_id)
SELECT coalesce(array_agg(tx_id), '{}') FROM passed
"""

_ENTER_UNDOING = """
WITH never_came AS (
  INSERT INTO barriers (tx_id, branch, op, done_at)
  SELECT t, $2, $4, NULL FROM unnest($1::text[]) AS t ORDER BY t COLLATE "C"
  ON CONFLICT DO NOTHING RETURNING tx_id
), passed AS (
  INSERT INTO barriers (tx_id, branch, op)
  SELECT t, $2, $3 FROM unnest($1::text[]) AS t ORDER BY t COLLATE "C"
  ON CONFLICT DO NOTHING RETURNING tx_id)
SELECT coalesce(array_agg(tx_id), '{}')
  FROM passed WHERE tx_id NOT IN (SELECT tx_id FROM never_came)
"""


class BarrierResult(NamedTuple):
    """The calls to do now and those to refuse; any other was done before, or undoes nothing."""

    calls: Sequence[BranchCall]
    refused: dict[str, str]


async def enter(
    connection: asyncpg.Connection, branch: str, op: BranchOp, calls: Sequence[BranchCall]
) -> BarrierResult:
    """Write the barrier rows of an operation, in the caller's transaction."""
    ids = [call.tx_id for call in calls]
    if op in UNDOES:
        passed = await connection.fetchval(_ENTER_UNDOING, ids, branch, op, UNDOES[op])
    else:
        passed = await connection.fetchval(_ENTER, ids, branch, op)
    if len(passed) == len(calls):
        return BarrierResult(calls, {})
    new = set(passed)
    late: list[str] = []
    if undone_by := _UNDONE_BY.get(op):
        again = [tx_id for tx_id in ids if tx_id not in new]
        late = await connection.fetchval("SELECT undone($1, $2, $3)", again, branch, undone_by)
    return BarrierResult([w for w in calls if w.tx_id in new], dict.fromkeys(late, LATE))


async def withdraw(
    connection: asyncpg.Connection, branch: str, op: BranchOp, refused: Sequence[str]
) -> None:
    """Remove the row of a refused operation: nothing was done, so there is nothing to undo."""
    await connection.execute("SELECT withdraw($1, $2, $3)", refused, branch, op)
