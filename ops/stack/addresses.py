"""Where the stack answers, as the variables by which other tools find it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from config.settings import Settings
from ops.processes.home import supervisor
from ops.stack.services import given_settings
from seckill.errors import SeckillError

NAMES = ("redis_url", "amqp_url", "postgres_dsn", "gateway_url", "admin_url")


def addresses(values: Mapping[str, object]) -> dict[str, str]:
    """Pick the addresses and the admin token out of settings, under their variables' names."""
    found = {name: _text(values.get(name) or "") for name in (*NAMES, "admin_token")}
    return {f"SECKILL_{name.upper()}": text for name, text in found.items() if text}


def current_addresses(settings: Settings) -> dict[str, str]:
    """Return the addresses of the running stack, or those that the environment gives.

    The settings file of a stack that was killed does not count: nobody answers there.
    """
    running = supervisor(settings.home.absolute())
    values = settings.model_dump() if running else given_settings()
    if not all(values.get(name) for name in NAMES):
        raise SeckillError(f"no stack runs in {settings.home}; start one: seckill up")
    return addresses(values)


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
