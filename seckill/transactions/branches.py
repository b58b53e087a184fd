"""Branches: the participants of a transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from seckill.adapters.postgres import transaction
from seckill.errors import Unavailable
from seckill.transactions import barrier
from seckill.transactions.states import BranchCall, BranchOp

#: Does an operation for all calls in the caller's transaction, in few statements. Returns tx_id ->
#: reason for the calls that it refuses, which it has not touched, and raises for failures only.
#: Locks in the order of the project: orders by id, inventory by sale, wallets by buyer.
Operation = Callable[[asyncpg.Connection, Sequence[BranchCall]], Awaitable[Mapping[str, str]]]


class Branch(Protocol):
    """One participant. Doing an operation again has no further effect."""

    @property
    def name(self) -> str:
        """Its name in the log and in the barrier; never change it while transactions are open."""

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        """Do an operation for all calls; return tx_id -> reason for the refused ones.

        Only try and do may refuse. Raise PartlyDone if some calls are known to be done, and any
        other exception if that is known of none.
        """


@dataclass(frozen=True, slots=True)
class Definition:
    """The branches of a transaction, under the name that the log keeps."""

    name: str
    #: Tried, confirmed and done in this order; canceled and undone in reverse.
    branches: tuple[Branch, ...]


class PartlyDone(Unavailable):
    """Some of the calls failed; the others are done or refused."""

    def __init__(self, refused: Mapping[str, str], failed: Mapping[str, Exception]) -> None:
        super().__init__(f"{len(failed)} failed, such as: {next(iter(failed.values()))}")
        self.refused = refused
        self.failed = failed


class SqlBranch:
    """A branch in PostgreSQL: one SQL transaction for all calls, behind the barrier.

    An operation that is not given does nothing.
    """

    def __init__(
        self,
        name: str,
        db: asyncpg.Pool,
        *,
        try_: Operation | None = None,
        confirm: Operation | None = None,
        cancel: Operation | None = None,
        do: Operation | None = None,
        undo: Operation | None = None,
    ) -> None:
        self.name = name
        self._db = db
        self._operations = {
            BranchOp.TRY: try_,
            BranchOp.CONFIRM: confirm,
            BranchOp.CANCEL: cancel,
            BranchOp.DO: do,
            BranchOp.UNDO: undo,
        }

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        """Do an operation once for each call; raise Unavailable if PostgreSQL is unavailable."""
        async with transaction(self._db) as connection:
            passed, refused = await barrier.enter(connection, self.name, op, calls)
            operation = self._operations[op]
            if operation is None or not passed:
                return refused
            if now := await operation(connection, passed):
                await barrier.withdraw(connection, self.name, op, list(now))
            return {**refused, **now}
