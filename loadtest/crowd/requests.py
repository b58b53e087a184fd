"""One request of a crowd: when it is due, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NoAnswer(StrEnum):
    """Why a request has no answer."""

    #: The server, or its kernel, does not take the connection.
    REFUSED = "refused"
    #: The connection was closed before the answer was there.
    RESET = "reset"
    #: The buyer's patience was over.
    GAVE_UP = "gave up"
    #: Unanswered when the run ended.
    NONE = "no answer"


@dataclass(slots=True)
class PlannedRequest:
    """One request: when it is due (seconds after the start), its bytes, and what became of it."""

    due_s: float
    payload: bytes
    #: The buyer comes back once, after the Retry-After of a 429 of at most so many seconds.
    obeys_within_s: float = 0.0
    comes_back: bool = False
    #: When it was found that all connections were taken; 0 when it went out at once.
    queued_s: float = 0.0
    #: When it was sent or, where each buyer connects, when they began to.
    sent_s: float = 0.0
    #: When the answer, the refusal or the reset came; 0 for none of them.
    answered_s: float = 0.0
    #: 0: no answer.
    status: int = 0
    retry_after_s: int = 0
    no_answer: NoAnswer = NoAnswer.NONE

    @property
    def wait_s(self) -> float:
        """The latency of its answer."""
        return self.answered_s - self.due_s

    @property
    def ending(self) -> int | NoAnswer:
        """Its status or, without an answer, the reason for that."""
        return self.status or self.no_answer
