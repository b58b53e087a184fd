"""The error tree of the project.

SeckillError
|- Transient   the same call may succeed later: hold and retry
|  |- Unavailable   a store does not do the work; the outcome is unknown, never "no"
|  |  |- TimedOut     a statement took too long: the store's fault once, the statement's if again
|  |  |- WrongQueue   a queue was made with other arguments: an operator has to delete it
|  |  |- BrokenSale   Redis cannot read the keys of one sale: other sales go on
|  |  |- ForeignStore   a store belongs to another installation: an operator has to part them
|- Permanent   the same call can never succeed: dead-letter it, or report it to the caller
|  |- UserMistake   the user typed something wrong: one line, exit code 2, no traceback
|  |  |- Missing      the named thing does not exist
|  |  |- WrongState   the command does not fit the present state
|- NotReady    the stores are not as they must be, so nothing begins
|- Conflict    another process won a compare-and-set: re-read and decide
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class FailureKind(StrEnum):
    """Why a store does not do the work; `seckill.adapters.failures` has the tables."""

    #: It is away, stops, is full, or may not write now: hold the work and try again.
    UNAVAILABLE = "unavailable"
    #: Another transaction or node was in the way: the same call may succeed at once.
    TRANSIENT = "transient"
    #: Password, right, name, schema or version do not fit: hold the work, and call an operator.
    CONFIGURATION = "configuration"


class SeckillError(Exception):
    """Something went wrong in the flash-sale gateway."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class Transient(SeckillError):
    """The call failed for now; the same call may succeed later."""


class Unavailable(Transient):
    """A store does not do the work; whether it did is unknown."""

    def __init__(
        self,
        message: str | None = None,
        *,
        kind: FailureKind = FailureKind.UNAVAILABLE,
        store: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message)
        #: `store` is redis, rabbitmq, postgresql, provider, or "" for something else. `code` is the
        #: store's own for this refusal (READONLY, 25006, 530), or "" if it did not answer.
        self.kind, self.store, self.code = kind, store, code
        #: It was counted, and logged if it was new.
        self.noted = False

    def at(self, address: str) -> Self:
        """Return the same failure, with the address after the store's name in its text."""
        name, said = str(self).split(" ", 1)
        return self._with_text(f"{name} at {address} {said}")

    def adding(self, words: str) -> Self:
        """Return the same failure, with more words at the end of its text."""
        return self._with_text(f"{self}{words}")

    def again(self) -> Self:
        """Return a copy, to be raised for another caller."""
        return self._with_text(str(self))

    def _with_text(self, text: str) -> Self:
        copy = type(self)(text, kind=self.kind, store=self.store, code=self.code)
        copy.noted = self.noted
        return copy


class TimedOut(Unavailable):
    """A statement took too long; whether it did the work is unknown."""


class WrongQueue(Unavailable):
    """RabbitMQ has a queue that was made with other arguments; nothing goes through it."""


class BrokenSale(Unavailable):
    """Redis holds something of one sale that no script can read; other sales go on."""


class ForeignStore(Unavailable):
    """A store belongs to another installation; nothing is read from it or written to it."""


class Permanent(SeckillError):
    """The call can never succeed as it stands."""


class UserMistake(Permanent):
    """The command cannot be carried out as typed."""

    def __init__(self, message: str | None = None, *, field: str = "") -> None:
        super().__init__(message)
        #: The value at fault, by the name it has in the API; "" if it is no single one.
        self.field = field


class Missing(UserMistake):
    """There is no such thing."""


class WrongState(UserMistake):
    """The command does not fit the present state."""


class NotReady(SeckillError):
    """The stores are not as they must be."""


class Conflict(SeckillError):
    """Another process changed the row first."""
