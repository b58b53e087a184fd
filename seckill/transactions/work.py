"""The words that both engines share: operations, states, one transaction's share of a call."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

#: What an operation gets. JSON can say it: recovery reads it from the log.
Args = Mapping[str, Any]


class Op(StrEnum):
    """What a branch can be asked to do: TCC the first three, a Saga the other two."""

    TRY = "try"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    DO = "do"
    UNDO = "undo"


#: An operation that undoes -> what it undoes.
UNDOES = {Op.CANCEL: Op.TRY, Op.UNDO: Op.DO}


class State(StrEnum):
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
ENDED = frozenset({State.CONFIRMED, State.CANCELED, State.COMPLETED, State.COMPENSATED})


class Work(NamedTuple):
    """One transaction's share of a call."""

    tx_id: str
    args: Args


class Outcome(NamedTuple):
    """Where a transaction is when its submitter is answered.

    Neither confirmed nor canceled means pending: it is in the log, and `recover` finishes it.
    """

    state: State
    #: Why it was, or will be, canceled; the refusing branch's word.
    reason: str | None = None

    @property
    def confirmed(self) -> bool:
        """Every branch has confirmed."""
        return self.state is State.CONFIRMED

    @property
    def canceled(self) -> bool:
        """Every branch has canceled."""
        return self.state is State.CANCELED
