"""`seckill up`, `down`, `status` and `env`: everything on this machine, started and shown."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from config.settings import load_settings
from ops.cli.console import Json, print_json
from ops.pool.plan import COUNT_MAX
from ops.processes.home import bring_down, pool_manager
from ops.processes.requests import pool_overview, running_stack
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
    settings = load_settings()
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
    if as_json:
        print_json({"services": services, "processes": processes, "pool": pool})
    else:
        for service in services:
            typer.echo(f"{service['name']:<14}{service['pid'] or '-':<10}{service['address']}")
        for process in processes:
            where = f"{process['role']:<12}{process['admin_url']}"
            typer.echo(f"{process['name']:<14}{process['pid'] or '-':<10}{where}")
        if pool:
            typer.echo(f"{'pool':<14}{pool['pid']:<10}see: seckill pool status")
    if stack is None:
        raise SeckillError(f"nothing runs in {home}; start it: seckill up")
    if found is None:
        if pid := pool_manager(home):
            log = home / "logs" / "pool.log"
            raise SeckillError(f"pool: its manager (pid {pid}) does not answer; see {log}")
        raise SeckillError("pool: not running; start it: seckill pool start --detach")


def env(as_json: Json = False) -> None:
    """Print the addresses and the admin token, for `eval "$(seckill env)"`."""
    from ops.stack.settings import current_variables

    found = current_variables(load_settings())
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(f"export {name}='{value}'" for name, value in found.items()))
