"""The words that both engines share: operations, states, calls, outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

#: The arguments of an operation, in types of JSON: recovery reads them from the log.
Args = Mapping[str, Any]


class BranchOp(StrEnum):
    """The operations of a branch: the first three are for TCC, the other two for a Saga."""

    TRY = "try"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    DO = "do"
    UNDO = "undo"


#: An operation that undoes -> what it undoes.
UNDOES = {BranchOp.CANCEL: BranchOp.TRY, BranchOp.UNDO: BranchOp.DO}


class TransactionState(StrEnum):
    """The state of a transaction; FAILED means parked for an operator."""

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
    """An operation to do for one transaction; a branch gets many at once."""

    tx_id: str
    args: Args


class TransactionOutcome(NamedTuple):
    """The state of a transaction when its submitter gets an answer.

    Neither CONFIRMED nor CANCELED means pending: it is in the log, and `recover` finishes it.
    """

    state: TransactionState
    #: Why it was, or will be, canceled: the word of the branch that refused.
    reason: str | None = None
    #: What a buyer needs beside it: the page of the bank to go to, or why the bank declined.
    detail: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether every branch has confirmed."""
        return self.state is TransactionState.CONFIRMED


class SagaPosition(NamedTuple):
    """Where a Saga is: doing (RUNNING) or undoing (COMPENSATING) a step."""

    tx_id: str
    state: TransactionState
    step: int


class SagaMove(NamedTuple):
    """A move of a Saga from one position to the next, or to its end."""

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
    #: Only of a Saga.
    step: int
    args: dict[str, Any]
    reason: str | None
    #: Attempts that failed since it last made progress.
    attempts: int
    #: When it began, in Unix nanoseconds; 0 if unknown.
    created_ns: int = 0

    @property
    def call(self) -> BranchCall:
        """The call that its branches get."""
        return BranchCall(self.tx_id, self.args)

    @property
    def position(self) -> SagaPosition:
        """The position of a Saga."""
        return SagaPosition(self.tx_id, self.state, self.step)


class AttemptNote(NamedTuple):
    """One attempt at an operation of a branch, kept for the operator."""

    tx_id: str
    branch: str
    op: BranchOp
    #: Why it failed or was refused; None if it is done.
    error: str | None = None
