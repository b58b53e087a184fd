"""What an error means to the person who typed a command: one line, and the exit code."""

from __future__ import annotations

from asyncpg.exceptions import ClientConfigurationError

from config.settings import BadSettings
from ops.stack.settings import STORE_SETTINGS, given_settings
from seckill.adapters.failures import store_failure
from seckill.errors import SeckillError, UserMistake


def explained(error: Exception) -> tuple[str, int] | None:
    """Return the line and the exit code; None for a bug, which deserves its traceback."""
    if isinstance(error, UserMistake):
        return str(error), 2
    if isinstance(error, BadSettings):
        # Either a value cannot be used, then pydantic's error is the cause, or there is no stack.
        return str(error), 2 if error.__cause__ else 1
    if isinstance(error, ClientConfigurationError):  # of asyncpg, which reads the address itself
        return f"SECKILL_POSTGRES_DSN: {error}", 2
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}", 1
    if failure := store_failure(error):
        return f"{failure}{_hint(failure.store)}", 1
    return (str(error), 1) if isinstance(error, SeckillError) else None


def _hint(store: str) -> str:
    """Point at an address that the environment gives: that of a stack that is gone misleads."""
    given = given_settings()
    settings = [STORE_SETTINGS[store]] if store in STORE_SETTINGS else STORE_SETTINGS.values()
    names = [f"SECKILL_{name.upper()}" for name in settings if given.get(name)]
    return f" ({', '.join(names)} from the environment; correct or unset it)" if names else ""
