"""Who starts the pool of a home: one manager at a time, kept by the stack's supervisor if one runs.

A manager that was asked to end is left alone by the supervisor until `<home>/run/pool.wanted` is
there. The next manager removes that file, so a wish is never granted twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.pool.control_socket import overview
from ops.pool.plan import start_afresh
from ops.processes.child import START_DEADLINE_S, log_tail
from ops.processes.home import AlreadyRunning, supervisor
from ops.processes.locks import Locked, hold, holder
from ops.processes.pid_files import POLL_S
from seckill.errors import SeckillError


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Be the only manager of the pool of `home`, or raise AlreadyRunning."""
    try:
        with hold(_lock(home)):
            yield
    except Locked:
        raise AlreadyRunning(
            f"a pool already runs in {home} (pid {manager(home)}); stop it: seckill pool stop"
        ) from None


def manager(home: Path) -> int | None:
    """Return the pid of the pool manager of `home`, which may not answer yet; None: none runs."""
    return holder(_lock(home))


def wish(home: Path) -> Path:
    """Return the file that asks the supervisor for a pool."""
    return home / "run" / "pool.wanted"


def hand_over(home: Path, stack: int, consumers: int | None) -> None:
    """Have the supervisor (pid `stack`) start the pool, and return when it takes commands."""
    with alone(home):  # its supervisor may be about to start it again after a crash
        if consumers is not None:
            start_afresh(home, consumers)
        wish(home).touch()
    deadline = time.monotonic() + START_DEADLINE_S
    while overview(home) is None:
        if supervisor(home) != stack:
            raise SeckillError(f"the stack (pid {stack}) ended before it started the pool")
        if time.monotonic() > deadline:
            tail = log_tail(home / "logs" / "pool.log")
            raise SeckillError(f"the pool did not start within {START_DEADLINE_S:g} s{tail}")
        time.sleep(POLL_S)  # the manager answers when it is there


def _lock(home: Path) -> Path:
    return home / "run" / "pool.lock"
