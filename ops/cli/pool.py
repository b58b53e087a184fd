"""The commands about the pool of consumers: start it, see it, scale, pause, drain and repair it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import time
from contextlib import nullcontext, suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from config.settings import load_settings
from ops.cli.pool_tables import Status, tables
from ops.pool.control_socket import Request, ask
from ops.pool.plan import COUNT_MAX, parse_scale
from ops.pool.start import hand_over
from ops.processes.home import supervisor
from ops.processes.pid_files import POLL_S, start_time
from seckill.errors import SeckillError

#: Between two looks of somebody who waits for a change.
LOOK_PAUSE_S = 0.2

pool_app = typer.Typer(help="See, scale, pause, drain and repair consumers.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Wait = Annotated[float, typer.Option(help="Seconds for it to be in force; 0: do not.", min=0)]
Roles = Annotated[list[str], typer.Argument(metavar="ROLE...")]


@pool_app.command()
def start(
    consumers: Annotated[
        int | None,
        typer.Option(
            help="Begin with as many of each role; else go on as it was.", min=0, max=COUNT_MAX
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it runs.")] = False,
) -> None:
    """Run a pool, in the foreground; where a stack runs, its supervisor does."""
    home = load_settings().home.absolute()
    stack = supervisor(home)
    if stack and stack != os.getppid():
        hand_over(home, stack, consumers)
        return typer.echo(f"the stack (pid {stack}) runs it, and keeps it alive")
    if detach:
        from ops.stack.detached import start_pool_detached

        return start_pool_detached(home, consumers)
    from ops.pool.manager import run_pool
    from ops.processes.tasks import until_signal
    from ops.processes.workers import worker_settings

    say = logging.getLogger("seckill.pool").warning
    if asyncio.run(until_signal(run_pool(worker_settings(), consumers, say))):
        # Not 0, which is for `pool stop`: a supervisor starts again what it did not stop itself.
        raise typer.Exit(128 + signal.SIGTERM)
    return None


@pool_app.command()
def status(as_json: Json = False) -> None:
    """Show what each role and each worker does."""
    _print(_status(), as_json)


@pool_app.command()
def top(
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    count: Annotated[int | None, typer.Option(help="Looks; else until Ctrl-C.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Show it live, until Ctrl-C; with --json, one object a line."""
    screen = nullcontext() if as_json else Live(auto_refresh=False)
    with suppress(KeyboardInterrupt), screen as live:
        for look in itertools.count(1):
            try:
                now = _status()
            except SeckillError as away:
                if live is None or look == 1:
                    raise
                live.update(str(away), refresh=True)  # it may come back
            else:
                if live is None:
                    typer.echo(json.dumps(now))
                else:
                    live.update(tables(now), refresh=True)
            if look == count:
                return
            time.sleep(interval)  # as the operator asked


@pool_app.command()
def scale(
    counts: Annotated[list[str], typer.Argument(metavar="ROLE=N|ROLE=MIN..MAX...")],
    wait: Wait = 30,
    as_json: Json = False,
) -> None:
    """Run a role in N processes; with MIN..MAX, as many as its backlog needs."""
    wanted = {role: (low, high) for role, low, high in map(parse_scale, counts)}
    _do(Request("scale", counts=wanted), list(wanted), wait, as_json)


@pool_app.command()
def pause(roles: Roles, wait: Wait = 30, as_json: Json = False) -> None:
    """Let roles rest after the batch in hand; their count is remembered."""
    _do(Request("pause", roles=roles), roles, wait, as_json)


@pool_app.command()
def resume(
    roles: Annotated[list[str] | None, typer.Argument(metavar="[ROLE]...")] = None,
    wait: Wait = 30,
    as_json: Json = False,
) -> None:
    """Let paused roles go on: those named, or all."""
    _do(Request("resume", roles=roles or []), roles or [], wait, as_json)


@pool_app.command()
def drain(wait: Wait = 30, as_json: Json = False) -> None:
    """Take nothing more, finish what is in hand, and rest until `resume`; processes stay."""
    _do(Request("drain"), [], wait, as_json)


@pool_app.command()
def restart(as_json: Json = False) -> None:
    """Replace the workers, one after the other; each finishes its batch first."""
    home = load_settings().home.absolute()
    ask(home, Request("restart"), timeout_s=None)  # as long as there are workers
    _print(_status(), as_json)


@pool_app.command()
def stop(as_json: Json = False) -> None:
    """Let every worker finish its batch, then end all of them and the pool."""
    home = load_settings().home.absolute()
    pid = ask(home, Request("overview"))["pid"]
    started = start_time(pid)
    ask(home, Request("stop"), timeout_s=None)
    while started is not None and start_time(pid) == started:  # its lock is free for the next one
        time.sleep(POLL_S)  # a process that is no child of ours tells nobody that it ended
    typer.echo(json.dumps({"stopped": pid}) if as_json else "stopped")


def _status() -> Status:
    return ask(load_settings().home.absolute(), Request("status"))


def _do(request: Request, roles: list[str], wait_s: float, as_json: bool) -> None:
    """Have something changed and wait until it is in force; SeckillError when it is not in time."""
    ask(load_settings().home.absolute(), request)
    deadline = time.monotonic() + wait_s
    while late := not_in_force(now := _status(), roles):
        if time.monotonic() >= deadline:
            if not wait_s:
                break
            raise SeckillError(f"not in force after {wait_s:g} s: {', '.join(late)}")
        time.sleep(LOOK_PAUSE_S)  # the manager answers questions, and calls nobody
    _print(now, as_json)


def not_in_force(now: Status, roles: list[str]) -> list[str]:
    """Name the roles (of these; none: of all) that do not run as often as they should.

    A role of a queue runs when the broker has its consumer, too; there may be more of other pools.
    """
    late = []
    for role in now["roles"]:
        goal = 0 if role["paused"] else role["wanted"]
        consumers = goal if role["consumers"] is None else role["consumers"]
        if (role["running"] != goal or consumers < goal) and (not roles or role["role"] in roles):
            late.append(f"{role['role']} runs in {min(role['running'], consumers)} of {goal}")
    return late


def _print(now: Status, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(now))
    else:
        Console().print(tables(now))
