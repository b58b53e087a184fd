"""What an error means to the person who typed a command: one line, and the exit code."""

from __future__ import annotations

from urllib.parse import urlsplit

from config.settings import BadSettings, Settings, load_settings
from ops.stack.settings import STORE_SETTINGS, given_settings
from seckill.errors import SeckillError, Unavailable, UserMistake

#: Driver package -> the store that it talks to, and the setting with its address.
_DRIVERS = {
    "redis": ("Redis", "redis_url"),
    "aiormq": ("RabbitMQ", "amqp_url"),
    "asyncpg": ("PostgreSQL", "postgres_dsn"),
}
#: SQLSTATE classes of PostgreSQL: no connection, bad login, shutting down, unknown database.
_OUTAGES = ("08", "28", "57", "3D")


def explained(error: Exception) -> tuple[str, int] | None:
    """Return the line and the exit code; None for a bug, which deserves its traceback."""
    if isinstance(error, UserMistake):
        return str(error), 2
    if isinstance(error, BadSettings):
        # Either a value cannot be used, then pydantic's error is the cause, or there is no stack.
        return str(error), 2 if error.__cause__ else 1
    if isinstance(error, Unavailable):
        return f"{error}{_hint()}", 1
    if isinstance(error, SeckillError):
        return str(error), 1
    if outage := _outage(error, load_settings()):
        return f"{outage}{_hint()}", 1
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}", 1
    return None


def _outage(error: Exception, settings: Settings) -> str | None:
    """Name the store whose driver raised the error; None for an error that is no outage."""
    package = type(error).__module__.partition(".")[0]
    if package not in _DRIVERS and isinstance(error, OSError):
        # asyncpg passes the operating system's error on; the text has the address it dialled.
        package = _dialled(str(error), settings)
    if package == "asyncpg" and getattr(error, "sqlstate", "08")[:2] not in _OUTAGES:
        return None
    if package not in _DRIVERS:
        return None
    name, setting = _DRIVERS[package]
    url = urlsplit(getattr(settings, setting))
    return f"{name} at {url.hostname}:{url.port} does not answer: {error}"


def _dialled(text: str, settings: Settings) -> str:
    for package, (_, setting) in _DRIVERS.items():
        port = urlsplit(getattr(settings, setting)).port
        if f", {port})" in text:  # "Connect call failed ('127.0.0.1', 5432)"
            return package
    return ""


def _hint() -> str:
    """Point at addresses that the environment gives: those of a stack that is gone mislead."""
    given = given_settings()
    names = [
        f"SECKILL_{setting.upper()}" for setting in STORE_SETTINGS.values() if given.get(setting)
    ]
    return f" ({', '.join(names)} from the environment; unset if outdated)" if names else ""
