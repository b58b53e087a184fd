"""What runs here: `seckill up`, `down`, `status`, `env`, and a `gateway` or `consumers` by hand."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

from config.settings import Settings, load_settings
from ops.cli.console import Json, show
from ops.pool.plan import COUNT_MAX
from ops.processes.home import bring_down, pool_manager
from ops.processes.requests import pool_overview, running_stack
from ops.processes.tasks import until_signal
from ops.processes.workers import run_gateways, worker_settings
from seckill.errors import SeckillError


def up(
    workers: Annotated[int, typer.Option(help="Gateway processes.", min=0)] = 2,
    consumers: Annotated[
        int, typer.Option(help="Consumer processes that run all roles.", min=0, max=COUNT_MAX)
    ] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready.")] = False,
    as_json: Json = False,
) -> None:
    """Start everything: private stores, gateways, consumers."""
    settings = _settings_of_stack()
    if detach:
        from ops.stack.detached import start_detached

        start_detached(settings.home.absolute(), workers, consumers)
        env(as_json)
        return
    from ops.cli.up_screen import run_in_foreground

    asyncio.run(run_in_foreground(settings, workers, consumers, as_json=as_json))


def down() -> None:
    """Stop everything that `up` started."""
    typer.echo(bring_down(load_settings().home.absolute()))


def status(as_json: Json = False) -> None:
    """Show what runs; exit 1 when nothing does, or no pool of consumers."""
    home = load_settings().home.absolute()
    stack = running_stack(home)
    found = pool_overview(home) if stack else None
    services = stack["services"] if stack else []
    processes = [*(stack["processes"] if stack else []), *(found["workers"] if found else [])]
    pool = {"pid": found["pid"]} if found else None
    show(
        {"services": services, "processes": processes, "pool": pool},
        as_json,
        *(f"{s['name']:<14}{s['pid'] or '-':<10}{s['address']}" for s in services),
        *(
            f"{p['name']:<14}{p['pid'] or '-':<10}{p['role']:<12}{p['admin_url']}"
            for p in processes
        ),
        *([f"{'pool':<14}{pool['pid']:<10}see: seckill pool status"] if pool else []),
    )
    if stack is None:
        raise SeckillError(
            f"nothing runs in {home}; start it: seckill up (only what it started is shown)"
        )
    if found is None:
        if pid := pool_manager(home):
            log = home / "logs" / "pool.log"
            raise SeckillError(f"pool: its manager (pid {pid}) does not answer; see {log}")
        raise SeckillError("pool: not running; start it: seckill pool start --detach")


def env(as_json: Json = False) -> None:
    """Print the addresses and the admin token, for `eval "$(seckill env)"`."""
    from ops.stack.settings import current_variables

    found = current_variables(_settings_of_stack())
    show(found, as_json, *(f"export {name}='{value}'" for name, value in found.items()))


def _settings_of_stack() -> Settings:
    """Return the settings without the addresses that an earlier stack of the same home printed."""
    from ops.stack.settings import forget_own_addresses

    forget_own_addresses(load_settings().home.absolute())
    return load_settings()


def gateway(
    workers: Annotated[int, typer.Option(help="Processes on one port.", min=1)] = 1,
) -> None:
    """Serve buyers, in the foreground."""
    settings = worker_settings("ticket_keys", "jwt_keys")
    from gateway.server import check, run

    if workers == 1:
        from ops.pool.control import PoolClient

        return run(settings, PoolClient(settings.home.absolute()))
    check(settings)
    log = logging.getLogger("seckill").warning
    asyncio.run(until_signal(run_gateways(settings, workers, log)))
    return None


def consumers(
    roles: Annotated[list[str] | None, typer.Argument(metavar="[ROLE]...")] = None,
    managed: Annotated[bool, typer.Option("--managed", hidden=True)] = False,
) -> None:
    """Do the work behind the gateway, in the foreground: by all roles, or those named."""
    from consumers.main import default_roles, known, run

    chosen, settings = known(roles or ()), worker_settings()
    # Hidden, as only a pool manager assigns roles on stdin.
    run(settings, chosen or (() if managed else default_roles(settings)), managed=managed)
