"""Recovery: finish what a killed process left, and what waits for its next attempt.

A transaction is taken by moving its lease, in one statement that skips what another process has
locked. So two processes never take the same transaction within a lease.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from seckill import metrics
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import LoggedTransaction

#: Transactions taken in one pass: few enough to be finished within a lease.
BATCH_MAX = 200
#: Ended transactions removed in one pass: some milliseconds.
REMOVE_MAX = 500


class Engine(Protocol):
    """Finishes the transactions of one definition: a Coordinator or a Saga."""

    @property
    def name(self) -> str:
        """The definition's name."""

    @property
    def engine(self) -> str:
        """Its kind."""

    async def resume(self, taken: Sequence[LoggedTransaction]) -> None:
        """Go on with transactions of a killed process, or due again."""


class RecoveryReport(NamedTuple):
    """What one pass did; `full` if there may be more to do at once."""

    taken: int
    removed: int
    full: bool


class Recovery:
    """Resumes the transactions of some engines; leaves unknown definitions alone."""

    def __init__(
        self, log: TransactionLog, engines: Iterable[Engine], *, retention_s: float
    ) -> None:
        """Keep ended transactions for `retention_s` after their end."""
        self._log = log
        self._engines = {engine.name: engine for engine in engines}
        self._retention_s = retention_s

    async def run_once(self) -> RecoveryReport:
        """Take and resume one batch, and remove some of what ended long ago."""
        taken = await self._log.take_due(self._engines, BATCH_MAX)
        of: dict[str, list[LoggedTransaction]] = defaultdict(list)
        for transaction in taken:
            of[transaction.name].append(transaction)
        for name, transactions in of.items():
            engine = self._engines[name]
            metrics.TRANSACTIONS_RECOVERED.labels(engine.engine).inc(len(transactions))
            await engine.resume(transactions)
        removed = await self._log.remove_ended(self._retention_s, REMOVE_MAX)
        metrics.TRANSACTIONS_PARKED.set(await self._log.parked())
        full = len(taken) == BATCH_MAX or removed == REMOVE_MAX
        return RecoveryReport(len(taken), removed, full)
