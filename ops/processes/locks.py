"""Lock files: one holder at a time, and everybody may ask who."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.processes.pid_files import start_time
from seckill.errors import SeckillError


class Locked(SeckillError):
    """Another process holds the lock."""


@contextmanager
def hold(file: Path, *, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only holder, or raise Locked; `before` runs before anybody is told who holds it.

    The kernel frees the lock when we die, however we die. The file stays: were it removed, two
    processes could each hold a lock on a file of that name.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked from None
        before()
        lock.truncate(0)
        lock.write(f"{os.getpid()} {start_time(os.getpid())}")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def holder(file: Path) -> int | None:
    """Return the pid of the holder, or None when there is none."""
    try:
        pid, started = file.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if start_time(int(pid)) == started else None
