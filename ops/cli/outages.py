"""Turning a driver's connection error into one line that names the store."""

from __future__ import annotations

from urllib.parse import urlsplit

from config.settings import Settings

#: Driver package -> the store it talks to, and the setting with its address.
_STORES = {
    "redis": ("Redis", "redis_url"),
    "aiormq": ("RabbitMQ", "amqp_url"),
    "asyncpg": ("PostgreSQL", "postgres_dsn"),
}
#: SQLSTATE classes of PostgreSQL: no connection, bad login, shutting down, unknown database.
_OUTAGES = ("08", "28", "57", "3D")


def explain(error: Exception, settings: Settings) -> str | None:
    """Return the line, or None for an error that is no outage (a bug, then)."""
    package = type(error).__module__.partition(".")[0]
    if package not in _STORES and isinstance(error, OSError):
        # asyncpg passes the operating system's error on; the text has the address it dialled.
        package = _dialled(str(error), settings)
    if package == "asyncpg" and getattr(error, "sqlstate", "08")[:2] not in _OUTAGES:
        return None
    if package not in _STORES:
        return None
    name, setting = _STORES[package]
    url = urlsplit(getattr(settings, setting))
    return f"{name} at {url.hostname}:{url.port} does not answer: {error}"


def _dialled(text: str, settings: Settings) -> str:
    for package, (_, setting) in _STORES.items():
        port = urlsplit(getattr(settings, setting)).port
        if f", {port})" in text:  # "Connect call failed ('127.0.0.1', 5432)"
            return package
    return ""
