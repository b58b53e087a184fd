"""The words that both engines share: operations, states, one transaction's share of a call."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

#: What an operation gets. JSON can say it: recovery reads it from the log.
Args = Mapping[str, Any]


class BranchOp(StrEnum):
    """What a branch can be asked to do: TCC the first three, a Saga the other two."""

    TRY = "try"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    DO = "do"
    UNDO = "undo"


#: An operation that undoes -> what it undoes.
UNDOES = {BranchOp.CANCEL: BranchOp.TRY, BranchOp.UNDO: BranchOp.DO}


class TransactionState(StrEnum):
    """Where a transaction is; FAILED means parked for an operator."""

    TRYING = "TRYING"
    CONFIRMING = "CONFIRMING"
    CANCELING = "CANCELING"
    CONFIRMED = "CONFIRMED"
    CANCELED = "CANCELED"
    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"


#: States that nothing follows.
ENDED = frozenset(
    {
        TransactionState.CONFIRMED,
        TransactionState.CANCELED,
        TransactionState.COMPLETED,
        TransactionState.COMPENSATED,
    }
)


class BranchCall(NamedTuple):
    """One transaction's share of a call."""

    tx_id: str
    args: Args


class TransactionOutcome(NamedTuple):
    """Where a transaction is when its submitter is answered.

    Neither confirmed nor canceled means pending: it is in the log, and `recover` finishes it.
    """

    state: TransactionState
    #: Why it was, or will be, canceled; the refusing branch's word.
    reason: str | None = None

    @property
    def confirmed(self) -> bool:
        """Every branch has confirmed."""
        return self.state is TransactionState.CONFIRMED

    @property
    def canceled(self) -> bool:
        """Every branch has canceled."""
        return self.state is TransactionState.CANCELED


class SagaPosition(NamedTuple):
    """Where a Saga is: doing (RUNNING) or undoing (COMPENSATING) a step."""

    tx_id: str
    state: TransactionState
    step: int


class SagaMove(NamedTuple):
    """A Saga's way from one position to the next; `ended` when it has come to its end."""

    position: SagaPosition
    to_state: TransactionState
    to_step: int
    ended: bool = False
    reason: str | None = None


class LoggedTransaction(NamedTuple):
    """A transaction as the log has it."""

    tx_id: str
    name: str
    state: TransactionState
    #: A Saga's.
    step: int
    args: dict[str, Any]
    reason: str | None
    #: Attempts that failed since it last made progress.
    attempts: int

    @property
    def work(self) -> BranchCall:
        """What its branches get."""
        return BranchCall(self.tx_id, self.args)

    @property
    def position(self) -> SagaPosition:
        """Where a Saga is."""
        return SagaPosition(self.tx_id, self.state, self.step)


class AttemptNote(NamedTuple):
    """One attempt at an operation of a branch, for the operator to see."""

    tx_id: str
    branch: str
    op: BranchOp
    #: Why it failed or was refused; None when it is done.
    error: str | None = None
