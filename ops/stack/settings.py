"""The settings of a stack: composed from the environment and the home, and shown as variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_settings import EnvSettingsSource

from config.addresses import parse_address
from config.settings import Settings
from ops.processes.home import supervisor
from ops.processes.ports import LOOPBACK, kept_port
from ops.stack.credentials import load_credentials
from seckill.errors import SeckillError

#: Store -> the setting that, found in the environment, means "use this one, start nothing".
STORE_SETTINGS = {"redis": "redis_url", "rabbitmq": "amqp_url", "postgresql": "postgres_dsn"}
ADDRESSES = (*STORE_SETTINGS.values(), "gateway_url", "admin_url")

#: What `<home>/settings.json` holds: the settings of every process of the stack.
StackSettings = dict[str, Any]


def given_settings() -> dict[str, Any]:
    """Return what the environment itself sets; the settings file of a stack does not count."""
    return EnvSettingsSource(Settings)()


def forget_own_addresses(home: Path) -> None:
    """Take out of the environment what an earlier stack of this home printed for it.

    A store with a password of this home is one that we start ourselves. What `seckill env` printed
    of it may be out of date, and would be used by us and by our children.
    """
    if not (home / "secrets.json").exists():
        return
    own = {value for value in load_credentials(home).model_dump().values() if value}
    given = given_settings()
    stale = {name for name in STORE_SETTINGS.values() if _has_secret(given.get(name), own)}
    if stale:  # the same command printed the addresses of the gateway
        stale |= {"gateway_url", "admin_url", "shop_url"}
    for name in stale:
        os.environ.pop(f"SECKILL_{name.upper()}", None)


def _has_secret(url: str | None, secrets: set[str]) -> bool:
    try:
        address = parse_address(url or "")
    except ValueError:  # what is wrong with it is said when it is used
        return False
    is_here = any(host.name == LOOPBACK for host in address.hosts)
    return is_here and address.user.partition(":")[2] in secrets


def stack_settings(settings: Settings, home: Path, store_urls: dict[str, str]) -> StackSettings:
    """Compose what all processes of a stack, and commands beside it, should know.

    A port comes from the environment or is picked; the settings' own default would let only one
    stack run on a machine.
    """
    given = given_settings()
    credentials = load_credentials(home)
    gateway_port = int(given.get("gateway_port", 0)) or kept_port(home, "gateway")
    admin_port = int(given.get("admin_port", 0)) or kept_port(home, "admin")
    shop_port = int(given.get("shop_port", 0)) or kept_port(home, "shop")
    scheme = "https" if settings.tls_cert else "http"
    return {
        **store_urls,
        "namespace": settings.namespace,
        "gateway_host": settings.gateway_host,
        "gateway_port": gateway_port,
        "gateway_url": f"{scheme}://{settings.gateway_host}:{gateway_port}",
        "admin_host": settings.admin_host,
        "admin_port": admin_port,
        "admin_url": f"http://{settings.admin_host}:{admin_port}",
        "shop_host": settings.shop_host,
        "shop_port": shop_port,
        "shop_url": f"{scheme}://{settings.shop_host}:{shop_port}",
        "ticket_keys": given.get("ticket_keys") or credentials.ticket_keys,
        "jwt_keys": given.get("jwt_keys") or credentials.jwt_keys,
        "webhook_keys": given.get("webhook_keys") or credentials.webhook_keys,
        "shop_keys": given.get("shop_keys") or credentials.shop_keys,
        "admin_token": given.get("admin_token", credentials.admin_token),
    }


def variables(values: Mapping[str, object]) -> dict[str, str]:
    """Pick what commands need out of settings, under the names of their variables."""
    names = (*ADDRESSES, "shop_url", "namespace", "admin_token")
    found = {name: _text(values.get(name) or "") for name in names}
    return {f"SECKILL_{name.upper()}": text for name, text in found.items() if text}


def current_variables(settings: Settings) -> dict[str, str]:
    """Return the addresses of the running stack, or those that the environment gives.

    The settings file of a stack that was killed does not count: no process answers there.
    """
    running = supervisor(settings.home.absolute())
    values = settings.model_dump() if running else given_settings()
    if not all(values.get(name) for name in ADDRESSES):
        raise SeckillError(f"no stack runs in {settings.home}; start one: seckill up")
    return variables(values)


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
