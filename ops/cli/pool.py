"""`seckill pool`: start the consumers, see, scale, pause, drain and repair them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from config.settings import load_settings
from ops.cli.console import Json, show, to_json
from ops.cli.keyboard import Keys, at_terminal, keyboard
from ops.cli.pool_tables import tables
from ops.cli.pool_top import TopScreen
from ops.pool.plan import COUNT_MAX, parse_scale
from ops.processes.child import START_DEADLINE_S, log_tail
from ops.processes.control_socket import Reply
from ops.processes.home import supervisor
from ops.processes.pid_files import POLL_S, start_time, wait_for_end
from ops.processes.requests import (
    PoolRequest,
    StackRequest,
    pool_overview,
    pool_socket,
    stack_socket,
)
from seckill.consistency import requirements
from seckill.errors import SeckillError

#: Between two looks whether a change is in force.
LOOK_PAUSE_S = 0.2

pool_app = typer.Typer(help="See, scale, pause, drain and repair consumers.", no_args_is_help=True)

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
        _start_by(stack, home, consumers)
        return typer.echo(f"the stack (pid {stack}) runs it, and keeps it alive")
    if detach:
        from ops.stack.detached import start_pool_detached

        return start_pool_detached(home, consumers)
    from ops.pool.manager import run_pool
    from ops.processes.tasks import until_signal
    from ops.processes.workers import worker_settings

    log = logging.getLogger("seckill.pool").warning
    settings = worker_settings()
    if not stack:  # its workers would all fail with the same line
        asyncio.run(requirements.require_no_faults(settings))
    if asyncio.run(until_signal(run_pool(settings, consumers, log))):
        # Not 0, which is for `pool stop`: a supervisor starts again what it did not stop itself.
        raise typer.Exit(128 + signal.SIGTERM)
    return None


@pool_app.command()
def status(as_json: Json = False) -> None:
    """Show what each role and each worker does."""
    _show(_status(), as_json)


@pool_app.command()
def top(
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    count: Annotated[int | None, typer.Option(help="Looks; else until Ctrl-C.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Show it live, until q or Ctrl-C; ? lists the keys. With --json, one object a line."""
    with suppress(KeyboardInterrupt):
        if as_json:
            _print_looks(interval, count)
        else:
            _watch(interval, count)


@pool_app.command()
def scale(
    counts: Annotated[list[str], typer.Argument(metavar="ROLE=N|ROLE=MIN..MAX...")],
    wait: Wait = 30,
    as_json: Json = False,
) -> None:
    """Run a role in N processes; with MIN..MAX, as many as its backlog needs."""
    wanted = {role: (low, high) for role, low, high in map(parse_scale, counts)}
    _change(PoolRequest("scale", counts=wanted), list(wanted), wait, as_json)


@pool_app.command()
def pause(roles: Roles, wait: Wait = 30, as_json: Json = False) -> None:
    """Let roles rest after the batch in hand; their count is remembered."""
    _change(PoolRequest("pause", roles=roles), roles, wait, as_json)


@pool_app.command()
def resume(
    roles: Annotated[list[str] | None, typer.Argument(metavar="[ROLE]...")] = None,
    wait: Wait = 30,
    as_json: Json = False,
) -> None:
    """Let paused roles go on: those named, or all."""
    _change(PoolRequest("resume", roles=roles or []), roles or [], wait, as_json)


@pool_app.command()
def drain(wait: Wait = 30, as_json: Json = False) -> None:
    """Take nothing more, finish what is in hand, and rest until `resume`; processes stay."""
    _change(PoolRequest("drain"), [], wait, as_json)


@pool_app.command()
def restart(as_json: Json = False) -> None:
    """Replace the workers, one after the other; each finishes its batch first."""
    home = load_settings().home.absolute()
    pool_socket(home).ask(PoolRequest("restart"), timeout_s=None)  # as long as there are workers
    _show(_status(), as_json)


@pool_app.command()
def stop(as_json: Json = False) -> None:
    """Let every worker finish its batch, then end all of them and the pool."""
    home = load_settings().home.absolute()
    pid = pool_socket(home).ask(PoolRequest("overview"))["pid"]
    if supervisor(home):
        stack_socket(home).ask(StackRequest("stop_pool"), timeout_s=None)
    else:
        started = start_time(pid)
        pool_socket(home).ask(PoolRequest("stop"))
        wait_for_end(pid, started)
    show({"stopped": pid}, as_json, "stopped")


def _start_by(stack: int, home: Path, consumers: int | None) -> None:
    """Let the supervisor (pid `stack`) start the pool, and return when the pool answers."""
    stack_socket(home).ask(StackRequest("start_pool", consumers))
    deadline = time.monotonic() + START_DEADLINE_S
    while pool_overview(home) is None:
        if supervisor(home) != stack:
            raise SeckillError(f"the stack (pid {stack}) ended before it started the pool")
        if time.monotonic() > deadline:
            tail = log_tail(home / "logs" / "pool.log")
            raise SeckillError(f"the pool did not start within {START_DEADLINE_S:g} s{tail}")
        time.sleep(POLL_S)  # between two questions whether it is there


def _status() -> Reply:
    return pool_socket(load_settings().home.absolute()).ask(PoolRequest("status"))


def _print_looks(interval_s: float, count: int | None) -> None:
    for look in itertools.count(1):
        typer.echo(to_json(_status()))
        if look == count:
            return
        time.sleep(interval_s)  # as the operator asked


def _watch(interval_s: float, count: int | None) -> None:
    """Show the pool, and do what keys ask for, until q or so many looks."""
    screen = TopScreen(_status(), has_keys=at_terminal())
    with keyboard() as keys, Live(auto_refresh=False) as live:
        for look in itertools.count(1):
            live.update(screen.shown(), refresh=True)
            if look == count or not _press_keys(keys, screen, live, interval_s):
                return
            try:
                screen.see(_status())
            except SeckillError as silent:
                screen.note = str(silent)  # it may come back


def _press_keys(keys: Keys, screen: TopScreen, live: Live, wait_s: float) -> bool:
    """Do what keys ask for until the next look is due; return False when it is to end."""
    due = time.monotonic() + wait_s
    while (left_s := due - time.monotonic()) > 0:
        for key in keys(left_s):
            if key == "q":
                return False
            if request := screen.press(key):
                try:
                    pool_socket(load_settings().home.absolute()).ask(request)
                except SeckillError as error:
                    screen.note = str(error)
                due = 0.0  # look at once
        live.update(screen.shown(), refresh=True)
    return True


def _change(request: PoolRequest, roles: list[str], wait_s: float, as_json: bool) -> None:
    """Ask for a change and wait until it is in force; raise SeckillError if it is not in time."""
    pool_socket(load_settings().home.absolute()).ask(request)
    deadline = time.monotonic() + wait_s
    while late := not_in_force(now := _status(), roles):
        if time.monotonic() >= deadline:
            if not wait_s:
                break
            raise SeckillError(f"not in force after {wait_s:g} s: {', '.join(late)}")
        time.sleep(LOOK_PAUSE_S)  # between two questions; the manager sends no word by itself
    _show(now, as_json)


def not_in_force(now: Reply, roles: list[str]) -> list[str]:
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


def _show(now: Reply, as_json: bool) -> None:
    show(now, as_json, tables(now))
