"""The error tree of the project.

SeckillError
|- Transient   the same call may succeed later: hold and retry
|  |- Unavailable   a store did not answer in time; the outcome is unknown, never "no"
|  |  |- WrongQueue   a queue was made with other arguments: a person has to delete it
|- Permanent   the same call can never succeed: dead letter, or tell the caller
|  |- UserMistake   a person typed something wrong: one line, exit code 2, no traceback
|  |  |- Missing      what it names does not exist
|  |  |- WrongState   it would be right if things stood otherwise
|- NotReady    the stores are set up so that something could be lost
|- Conflict    someone else won a compare-and-set: re-read and decide
"""

from __future__ import annotations


class SeckillError(Exception):
    """Something went wrong in the flash-sale gateway."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class Transient(SeckillError):
    """The call failed for now; the same call may succeed later."""


class Unavailable(Transient):
    """A store did not answer in time; whether it did the work is unknown."""


class WrongQueue(Unavailable):
    """RabbitMQ has a queue that was made with other arguments; nothing goes through it."""


class Permanent(SeckillError):
    """The call can never succeed as it stands."""


class UserMistake(Permanent):
    """The command cannot be carried out as typed."""


class Missing(UserMistake):
    """There is no such thing."""


class WrongState(UserMistake):
    """The command does not fit the state that things are in."""


class NotReady(SeckillError):
    """The stores are not set up so that nothing can be lost."""


class Conflict(SeckillError):
    """Someone else changed the row first."""
