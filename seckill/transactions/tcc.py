"""TCC: try every branch, decide once, then confirm all of them or cancel all of them."""

from __future__ import annotations

from seckill.errors import Transient
from seckill.transactions.branches import Definition
from seckill.transactions.log import Log
from seckill.transactions.work import Args, Outcome


class Busy(Transient):
    """As many transactions are in hand as this process may hold; try again later."""


class Coordinator:
    """Runs transactions of one definition, in batches."""

    engine = "tcc"

    def __init__(self, definition: Definition, log: Log, *, capacity: int = 1000) -> None:
        self._definition = definition
        self._log = log
        self._capacity = capacity

    async def submit(self, tx_id: str, args: Args) -> Outcome:
        """Run one transaction to its end; Busy at once when `capacity` are in hand.

        A tx_id that the log knows is not run again: its outcome so far is returned. Unavailable
        means unknown; submitting the same tx_id again tells.
        """
        raise NotImplementedError
