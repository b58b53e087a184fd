"""Where the stack answers, as the variables by which other tools find it."""

from __future__ import annotations

from collections.abc import Mapping

from config.settings import Settings
from ops.home import supervisor
from ops.services import given_settings
from seckill.errors import SeckillError

NAMES = ("redis_url", "amqp_url", "postgres_dsn", "gateway_url", "admin_url")


def addresses(values: Mapping[str, object]) -> dict[str, str]:
    """Pick the addresses out of settings, under the names of their variables."""
    return {f"SECKILL_{name.upper()}": str(values[name]) for name in NAMES if values.get(name)}


def current_addresses(settings: Settings) -> dict[str, str]:
    """Return the addresses of the running stack, or those that the environment gives.

    The settings file of a stack that was killed does not count: nobody answers there.
    """
    running = supervisor(settings.home.absolute())
    found = addresses(settings.model_dump() if running else given_settings())
    if len(found) < len(NAMES):
        raise SeckillError(f"no stack runs in {settings.home}; start one: seckill up")
    return found
