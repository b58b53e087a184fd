"""One supervisor a home: its lock, its published state, and how to stop it from outside."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from ops.processes.locks import Locked, hold, holder
from ops.processes.pid_files import POLL_S, end_leftovers, start_time
from seckill.errors import SeckillError

#: Longer than a whole orderly stop: gateways drain, consumers finish a batch, stores flush.
DOWN_DEADLINE_S = 60.0


class Service(TypedDict):
    """A store of the stack; no pid when the environment gave it, or while it restarts."""

    name: str
    pid: int | None
    address: str


class Worker(TypedDict):
    """A gateway or consumer process; no pid while it restarts."""

    name: str
    role: str
    pid: int | None
    admin_url: str


class Manager(TypedDict):
    """The pool manager; no pid while it restarts, or when it was stopped."""

    name: str
    pid: int | None


class StackState(TypedDict):
    """What `<home>/state.json` holds while a supervisor runs."""

    ready: bool
    services: list[Service]
    #: The gateways. Who runs as consumers the pool manager knows: `pool_control.overview`.
    processes: list[Worker]
    pool: Manager


class AlreadyRunning(SeckillError):
    """A stack runs in this home already."""


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Be the only supervisor of `home`, or raise AlreadyRunning."""
    try:
        # What a killed predecessor wrote is no longer true. Were it forgotten after our pid can be
        # read, somebody who waits for us could take the old state for ours.
        with hold(home / "lock", before=lambda: forget(home)):
            try:
                yield
            finally:
                forget(home)
    except Locked:
        raise AlreadyRunning(
            f"a stack already runs in {home} (pid {supervisor(home)}); stop it: seckill down"
        ) from None


def supervisor(home: Path) -> int | None:
    """Return the pid of the supervisor of `home`, or None when nobody runs."""
    return holder(home / "lock")


def publish(home: Path, state: StackState) -> None:
    """Write the state in one step, so that nobody reads half of it."""
    new = home / "state.json.new"
    new.write_text(json.dumps(state, indent=2))
    new.replace(home / "state.json")


def forget(home: Path) -> None:
    """Withdraw what says that a stack runs here."""
    for name in ("settings.json", "state.json"):
        (home / name).unlink(missing_ok=True)


def published(home: Path) -> StackState | None:
    """Return the state of the stack that runs in `home`, or None."""
    if supervisor(home) is None:
        return None
    try:
        state: StackState = json.loads((home / "state.json").read_text())
    except OSError:  # it has only just started, or is about to end
        return None
    return state


def bring_down(home: Path) -> str:
    """Stop what runs in `home`, and say what that was."""
    pid = supervisor(home)
    if pid is None:
        leftovers = end_leftovers(home / "run")
        forget(home)
        if leftovers:
            return f"ended what a killed stack left behind: {', '.join(leftovers)}"
        return f"nothing runs in {home}"
    started = start_time(pid)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_DEADLINE_S
    # Until it has left altogether: it lets its lock go a moment before.
    while started is not None and start_time(pid) == started:
        if time.monotonic() > deadline:
            raise SeckillError(f"the stack (pid {pid}) did not stop within {DOWN_DEADLINE_S} s")
        time.sleep(POLL_S)  # no child of ours: its end is not told
    return "stopped"
