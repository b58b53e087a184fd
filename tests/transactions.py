"""Branches whose effects can be counted, and processes that die between any two statements."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from seckill.errors import Unavailable
from seckill.transactions.branches import Definition, SqlBranch
from seckill.transactions.log import TransactionLog
from seckill.transactions.recovery import Recovery
from seckill.transactions.states import BranchCall, BranchOp, TransactionState
from seckill.transactions.tcc import Coordinator

_numbers = itertools.count(1)

TCC_OPS = (BranchOp.TRY, BranchOp.CONFIRM, BranchOp.CANCEL)
SAGA_OPS = (BranchOp.DO, BranchOp.UNDO)
DAY_S = 86_400.0
#: The calls of a TCC that a network can still deliver, by the state in the log.
LATE_OPS = {
    TransactionState.TRYING: (BranchOp.TRY,),
    TransactionState.CONFIRMING: (BranchOp.TRY, BranchOp.CONFIRM),
    TransactionState.CONFIRMED: (BranchOp.TRY, BranchOp.CONFIRM),
    TransactionState.CANCELING: (BranchOp.TRY, BranchOp.CANCEL),
    TransactionState.CANCELED: (BranchOp.TRY, BranchOp.CANCEL),
}


def new_id() -> str:
    return f"tx-{os.getpid()}-{next(_numbers)}"


def new_calls(count: int, **args: Any) -> list[BranchCall]:
    return [BranchCall(new_id(), args) for _ in range(count)]


class Probe:
    """Branches that write each effect down, in the branch's own transaction."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self.db = db
        #: (branch, operation) -> what its next calls raise, None for nothing.
        self.faults: dict[tuple[str, BranchOp], list[Exception | None]] = defaultdict(list)
        #: Transactions with `refuses_once` that have been refused.
        self.refused_once: set[str] = set()

    async def create(self) -> None:
        await self.db.execute(
            "CREATE TABLE IF NOT EXISTS tx_effects ("
            " id bigint GENERATED ALWAYS AS IDENTITY, tx_id text, branch text, op text)"
        )

    def branch(self, name: str, db: Any = None, ops: Iterable[BranchOp] = TCC_OPS) -> SqlBranch:
        given = {
            "try_" if op is BranchOp.TRY else op.value: self._operation(name, op) for op in ops
        }
        return SqlBranch(name, db or self.db, **given)

    def _operation(self, branch: str, op: BranchOp) -> Any:
        async def operation(
            connection: asyncpg.Connection, calls: Sequence[BranchCall]
        ) -> Mapping[str, str]:
            faults = self.faults[branch, op]
            if faults and (fault := faults.pop(0)):
                raise fault
            if any(call.args.get("breaks") == f"{branch} {op}" for call in calls):
                raise ArithmeticError("a bug")
            refused = {w.tx_id: "no" for w in calls if self._refuses(w, f"{branch} {op}")}
            await connection.execute(
                "INSERT INTO tx_effects (tx_id, branch, op)"
                " SELECT t, $2, $3 FROM unnest($1::text[]) t",
                [call.tx_id for call in calls if call.tx_id not in refused],
                branch,
                op,
            )
            return refused

        return operation

    def _refuses(self, call: BranchCall, operation: str) -> bool:
        if call.args.get("refuses_once") == operation and call.tx_id not in self.refused_once:
            self.refused_once.add(call.tx_id)
            return True
        return call.args.get("refuses") == operation

    async def effects(self, tx_id: str) -> list[str]:
        """Return what was done for a transaction, as "branch op", in order."""
        rows = await self.db.fetch(
            "SELECT branch, op FROM tx_effects WHERE tx_id = $1 ORDER BY id", tx_id
        )
        return [f"{row['branch']} {row['op']}" for row in rows]

    async def states(self, calls: Iterable[BranchCall]) -> list[tuple[str, str | None]]:
        """Return (state, reason) of transactions in their order; ("", None) for an unknown one."""
        found = {
            row["tx_id"]: (row["state"], row["reason"])
            for row in await self.db.fetch(
                "SELECT tx_id, state, reason FROM transactions WHERE tx_id = ANY ($1)",
                [call.tx_id for call in calls],
            )
        }
        return [found.get(call.tx_id, ("", None)) for call in calls]

    async def make_due(self, calls: Iterable[BranchCall]) -> None:
        """End the leases and waits of transactions."""
        await self.db.execute(
            "UPDATE transactions SET due_at = now() - interval '1 minute'"
            " WHERE tx_id = ANY ($1) AND due_at IS NOT NULL",
            [call.tx_id for call in calls],
        )

    async def assert_whole(self, branches: Sequence[str], calls: Iterable[BranchCall]) -> None:
        """I8: every try has one confirm or one cancel, the same at every branch, and none twice."""
        calls = list(calls)
        for call, (state, _) in zip(calls, await self.states(calls), strict=True):
            effects = await self.effects(call.tx_id)
            assert len(effects) == len(set(effects)), effects
            if state == TransactionState.CONFIRMED:
                expected = {
                    f"{name} {op}" for name in branches for op in (BranchOp.TRY, BranchOp.CONFIRM)
                }
                assert set(effects) == expected
            else:
                assert state in ("", TransactionState.CANCELED), (call, state, effects)
                tried = {e.removesuffix(" try") for e in effects if e.endswith(" try")}
                canceled = {e.removesuffix(" cancel") for e in effects if e.endswith(" cancel")}
                assert tried == canceled, effects
                assert not any(e.endswith(" confirm") for e in effects), effects


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Fuse:
    """Kills at the n-th point that is passed."""

    def __init__(self, points: int | None = None) -> None:
        self.left = points
        self.passed = 0

    def burn(self) -> None:
        if self.left == self.passed:
            raise Killed
        self.passed += 1


class MortalPool:
    """A pool whose process can die before and after each statement, and around each commit."""

    def __init__(self, pool: asyncpg.Pool, fuse: Fuse) -> None:
        self._pool = pool
        self._fuse = fuse

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _mortal(getattr(self._pool, name), self._fuse)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[_MortalConnection]:
        async with self._pool.acquire() as connection:
            yield _MortalConnection(connection, self._fuse)


class _MortalConnection:
    def __init__(self, connection: asyncpg.Connection, fuse: Fuse) -> None:
        self._connection = connection
        self._fuse = fuse

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _mortal(getattr(self._connection, name), self._fuse)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        async with self._connection.transaction():
            yield
            self._fuse.burn()
        self._fuse.burn()


def _mortal(method: Callable[..., Any], fuse: Fuse) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        fuse.burn()
        result = await method(*args, **kwargs)
        fuse.burn()
        return result

    return call


def run_together(runner: asyncio.Runner, *processes: Awaitable[object]) -> None:
    """Run processes at once; some of them die, some find PostgreSQL too slow."""

    async def together() -> list[object]:
        return await asyncio.gather(*processes, return_exceptions=True)

    for result in runner.run(together()):
        if isinstance(result, BaseException) and not isinstance(result, Killed | Unavailable):
            raise result


class LosesReplies:
    """A branch whose replies get lost: the operation is done, its caller gets no answer."""

    def __init__(self, branch: SqlBranch, op: BranchOp, times: int) -> None:
        self.name = branch.name
        self._branch = branch
        self._op = op
        self._times = times

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        refused = await self._branch.run(op, calls)
        if op is self._op and self._times:
            self._times -= 1
            raise Unavailable("the reply was lost")
        return refused


class TransactionBench:
    """A definition of its own for a test, and engines for it as several processes have them."""

    def __init__(self, probe: Probe, names: Sequence[str] = ("stock", "wallet", "coupon")) -> None:
        self.probe = probe
        self.names = names
        self.name = f"bench-{next(_numbers)}"

    def coordinator(
        self,
        db: Any = None,
        branches: Sequence[Any] = (),
        log: TransactionLog | None = None,
        **limits: Any,
    ) -> Coordinator:
        db = db or self.probe.db
        branches = branches or [self.probe.branch(name, db) for name in self.names]
        definition = Definition(self.name, tuple(branches))
        return Coordinator(definition, log or TransactionLog(db), **limits)

    def recovery(self, db: Any = None, branches: Sequence[Any] = ()) -> Recovery:
        log = TransactionLog(db or self.probe.db)
        return Recovery(log, [self.coordinator(db, branches, log=log)], retention_s=DAY_S)

    async def recover(self, calls: Sequence[BranchCall], **how: Any) -> None:
        """Recover as after the leases of these transactions."""
        await self.probe.make_due(calls)
        await self.recovery(**how).run_once()
