"""Branches: what takes part in a transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from seckill.database import database_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.transactions import barrier
from seckill.transactions.work import Op, Work

#: Does an operation for all works in the caller's transaction, in few statements, and returns
#: tx_id -> reason for those that it refuses and has not touched. Locks in the house's order:
#: orders by id, inventory by sale, wallets by buyer. Raises for trouble only.
Operation = Callable[[asyncpg.Connection, Sequence[Work]], Awaitable[Mapping[str, str]]]


class Branch(Protocol):
    """One participant. Doing an operation again has no further effect."""

    @property
    def name(self) -> str:
        """Its name in the log and in the barrier; never changed while transactions are open."""

    async def run(self, op: Op, works: Sequence[Work]) -> Mapping[str, str]:
        """Do an operation for all works; return tx_id -> reason for those refused.

        Only try and do may refuse. Raises PartlyDone when some are known to be done, any other
        exception when for none of them it is known.
        """


@dataclass(frozen=True, slots=True)
class Definition:
    """What a transaction consists of, under the name that the log keeps."""

    name: str
    #: Tried, done and confirmed in this order; canceled and undone in reverse.
    branches: tuple[Branch, ...]


class PartlyDone(Unavailable):
    """Some of a call's works failed; the others are done or refused."""

    def __init__(self, refused: Mapping[str, str], failed: Mapping[str, Exception]) -> None:
        super().__init__(f"{len(failed)} failed, such as: {next(iter(failed.values()))}")
        self.refused = refused
        self.failed = failed


class SqlBranch:
    """A branch in PostgreSQL: one transaction a call, behind the barrier.

    An operation that is not given has nothing to do.
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
            Op.TRY: try_,
            Op.CONFIRM: confirm,
            Op.CANCEL: cancel,
            Op.DO: do,
            Op.UNDO: undo,
        }

    async def run(self, op: Op, works: Sequence[Work]) -> Mapping[str, str]:
        """Do an operation, once for each transaction; Unavailable when PostgreSQL is away."""
        with database_errors_as_unavailable():
            async with self._db.acquire() as connection, connection.transaction():
                passed, refused = await barrier.enter(connection, self.name, op, works)
                operation = self._operations[op]
                if operation is None or not passed:
                    return refused
                if now := await operation(connection, passed):
                    await barrier.withdraw(connection, self.name, op, list(now))
                return {**refused, **now}
