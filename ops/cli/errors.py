"""What an error means to the person who typed a command: one line, and the exit code."""

from __future__ import annotations

import errno

from asyncpg.exceptions import ClientConfigurationError, DataError

from config.settings import BadSettings
from ops.stack.settings import STORE_SETTINGS, given_settings
from seckill.adapters.failures import store_failure, words
from seckill.errors import SeckillError, UserMistake

#: Of a file that cannot be written, and never of a link to a store.
OF_FILES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def explained(error: Exception) -> tuple[str, int] | None:
    """Return the line and the exit code; None for a bug, which deserves its traceback."""
    if isinstance(error, UserMistake):
        return str(error), 2
    if isinstance(error, BadSettings):
        # Either a value cannot be used, then pydantic's error is the cause, or there is no stack.
        return str(error), 2 if error.__cause__ else 1
    if isinstance(error, ClientConfigurationError):  # of asyncpg, which reads the address itself
        return f"SECKILL_POSTGRES_DSN: {words(error)}", 2
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}", 1
    if isinstance(error, OSError) and error.errno in OF_FILES:
        return f"the output cannot be written: {error.strerror}", 1
    if isinstance(error, DataError) and isinstance(error.__cause__, UnicodeEncodeError):
        return "give text in UTF-8", 2
    if failure := store_failure(error):
        return f"{failure}{_hint(failure.store)}", 1
    return (str(error), 1) if isinstance(error, SeckillError) else None


def _hint(store: str) -> str:
    """Point at an address that the environment gives: that of a stack that is gone misleads."""
    given = given_settings()
    settings = [STORE_SETTINGS[store]] if store in STORE_SETTINGS else STORE_SETTINGS.values()
    names = [f"SECKILL_{name.upper()}" for name in settings if given.get(name)]
    return f" ({', '.join(names)} from the environment; correct or unset it)" if names else ""
