"""The `seckill` command.

Exit codes: 0 it worked, 1 a check failed or something does not run, 2 it was not typed right.
Modules that take long to load are imported by the commands that need them, so that `--help` and
`status` answer at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Annotated

import typer

from config.settings import BadSettings, load_settings
from ops.pool.plan import COUNT_MAX
from seckill.errors import SeckillError, Unavailable, UserMistake

app = typer.Typer(
    help="A flash-sale gateway.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # `main` prints what a person should read
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
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
        _print_addresses(as_json)
        return
    from ops.cli.foreground import run_foreground

    asyncio.run(run_foreground(settings, workers, consumers, as_json=as_json))


@app.command()
def down() -> None:
    """Stop everything that `up` started."""
    from ops.processes.home import bring_down

    typer.echo(bring_down(load_settings().home.absolute()))


@app.command()
def status(as_json: Json = False) -> None:
    """Show what runs; exit 1 when nothing does, or no pool of consumers."""
    from ops.pool.control_socket import overview
    from ops.pool.start import manager
    from ops.processes.home import published

    home = load_settings().home.absolute()
    state = published(home)
    found = overview(home) if state else None
    services = state["services"] if state else []
    processes = [*(state["processes"] if state else []), *(found["workers"] if found else [])]
    pool = {"pid": found["pid"]} if found else None
    if as_json:
        typer.echo(json.dumps({"services": services, "processes": processes, "pool": pool}))
    else:
        for service in services:
            typer.echo(f"{service['name']:<14}{service['pid'] or '-':<10}{service['address']}")
        for process in processes:
            where = f"{process['role']:<12}{process['admin_url']}"
            typer.echo(f"{process['name']:<14}{process['pid'] or '-':<10}{where}")
        if pool:
            typer.echo(f"{'pool':<14}{pool['pid']:<10}see: seckill pool status")
    if state is None:
        raise SeckillError(f"nothing runs in {home}; start it: seckill up")
    if state["ready"] and not found:
        if pid := manager(home):
            log = home / "logs" / "pool.log"
            raise SeckillError(f"pool: its manager (pid {pid}) does not answer; see {log}")
        raise SeckillError("pool: not running; start it: seckill pool start --detach")


@app.command()
def env(as_json: Json = False) -> None:
    """Print the addresses and the admin token, for `eval "$(seckill env)"`."""
    _print_addresses(as_json)


@app.command()
def gateway(
    workers: Annotated[int, typer.Option(help="Processes on one port.", min=1)] = 1,
) -> None:
    """Serve buyers, in the foreground."""
    from ops.processes.workers import worker_settings

    settings = worker_settings()
    if workers > 1:
        from ops.processes.tasks import until_signal
        from ops.processes.workers import run_gateways

        say = logging.getLogger("seckill").warning
        asyncio.run(until_signal(run_gateways(settings, workers, say)))
        return
    from gateway.server import run

    run(settings)


@app.command()
def consumers(
    roles: Annotated[list[str] | None, typer.Argument(metavar="[ROLE]...")] = None,
    managed: Annotated[bool, typer.Option("--managed", hidden=True)] = False,
) -> None:
    """Do the work behind the gateway, in the foreground: by all roles, or those named."""
    from consumers.main import default_roles, known, run
    from ops.processes.workers import worker_settings

    chosen, settings = known(roles or ()), worker_settings()
    # A pool manager assigns the roles on stdin, which is nobody else's business.
    run(settings, chosen or (() if managed else default_roles(settings)), managed=managed)


def main() -> None:
    """Run the command line; an expected failure is one line on stderr, never a traceback."""
    from ops.cli import (
        dead_letters,
        events,
        payments,
        provider,
        rate_limits,
        rebuild,
        reconcile,
        running_sale,
        sales,
        transactions,
    )
    from ops.cli import pool as cli_pool

    sales.register(app)
    running_sale.register()
    dead_letters.register(app)
    app.add_typer(cli_pool.pool_app, name="pool")
    sales.sale_app.command("limit")(rate_limits.limit)
    sales.sale_app.command("rebuild")(rebuild.rebuild)
    app.command("events")(events.events)
    app.command("reconcile")(reconcile.compare)
    payments.register(app)
    app.command()(provider.provider)
    app.add_typer(transactions.tx_app, name="tx")
    # It logs each failed try to connect as an error of its own; what it means is said by us.
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)
    try:
        app()
    except UserMistake as mistake:
        _fail(str(mistake), 2)
    except BadSettings as bad:
        # Either a value cannot be used, then pydantic's error is the cause, or there is no stack.
        _fail(str(bad), 2 if bad.__cause__ else 1)
    except Unavailable as error:
        _fail(f"{error}{_hint()}", 1)
    except SeckillError as error:
        _fail(str(error), 1)
    except Exception as error:
        from ops.cli.outages import explain

        if explanation := explain(error, load_settings()):
            _fail(f"{explanation}{_hint()}", 1)
        if isinstance(error, OSError) and error.filename:
            _fail(f"{error.filename}: {error.strerror}", 1)
        raise


def _hint() -> str:
    """Point at addresses that the environment gives: those of a stack that is gone mislead."""
    from ops.stack.services import SETTINGS, given_settings

    given = given_settings()
    names = [f"SECKILL_{setting.upper()}" for setting in SETTINGS.values() if given.get(setting)]
    return f" ({', '.join(names)} from the environment; unset if outdated)" if names else ""


def _print_addresses(as_json: bool) -> None:
    from ops.stack.addresses import current_addresses

    found = current_addresses(load_settings())
    lines = [f"export {name}='{value}'" for name, value in found.items()]
    typer.echo(json.dumps(found) if as_json else "\n".join(lines))


def _fail(line: str, code: int) -> None:
    typer.echo(f"seckill: {line}", err=True)
    sys.exit(code)
