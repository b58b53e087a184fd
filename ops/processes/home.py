"""Who runs in a home: one supervisor and one pool manager, each behind a lock that names it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.processes.pid_files import end_leftovers, start_time, wait_for_end
from seckill.errors import SeckillError

#: Longer than a whole orderly stop: gateways drain, consumers finish a batch, stores flush.
DOWN_DEADLINE_S = 60.0


class AlreadyRunning(SeckillError):
    """Another process has this place in the home already."""


def supervisor(home: Path) -> int | None:
    """Return the pid of the supervisor of `home`; None when none runs."""
    return _holder(home / "lock")


def pool_manager(home: Path) -> int | None:
    """Return the pid of the pool manager of `home`, which may not answer yet; None: none runs."""
    return _holder(home / "run" / "pool.lock")


@contextmanager
def only_supervisor(home: Path) -> Iterator[None]:
    """Be the only supervisor of `home`; raise AlreadyRunning if there is one.

    The settings file of a stack is gone before and after it: no address in it would answer. Were
    that of a killed stack removed after our pid can be read, it could be taken for ours.
    """

    def forget() -> None:
        (home / "settings.json").unlink(missing_ok=True)

    with _only(home / "lock", f"a stack already runs in {home}", "seckill down", before=forget):
        try:
            yield
        finally:
            forget()


@contextmanager
def only_pool_manager(home: Path) -> Iterator[None]:
    """Be the only pool manager of `home`; raise AlreadyRunning if there is one."""
    with _only(home / "run" / "pool.lock", f"a pool already runs in {home}", "seckill pool stop"):
        yield


def bring_down(home: Path) -> str:
    """Stop what runs in `home`, and return what that was."""
    pid = supervisor(home)
    if pid is None:
        leftovers = end_leftovers(home / "run")
        (home / "settings.json").unlink(missing_ok=True)
        if leftovers:
            return f"ended what a killed stack left behind: {', '.join(leftovers)}"
        return f"nothing runs in {home}"
    started = start_time(pid)
    os.kill(pid, signal.SIGTERM)
    # Until it has left altogether: it lets its lock go a moment before.
    if not wait_for_end(pid, started, DOWN_DEADLINE_S):
        raise SeckillError(f"the stack (pid {pid}) did not stop within {DOWN_DEADLINE_S} s")
    return "stopped"


@contextmanager
def _only(
    file: Path, taken: str, stop: str, *, before: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a lock; raise AlreadyRunning if it is held. `before` runs before it names us.

    The kernel frees the lock when we die, however we die. The file stays: were it removed, two
    processes could each hold a lock on a file of that name.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"{taken} (pid {_holder(file)}); stop it: {stop}") from None
        before()
        lock.truncate(0)
        lock.write(f"{os.getpid()} {start_time(os.getpid())}")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def _holder(file: Path) -> int | None:
    try:
        pid, started = file.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if start_time(int(pid)) == started else None
