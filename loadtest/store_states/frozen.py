"""A process that stands still with all that it has started: a hung server, a machine that stalls.

with frozen(server.pid):
    ...  # it accepts connections, the kernel does that, and answers nothing
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def frozen(pid: int | None) -> Iterator[None]:
    """Stop a process and all its descendants until the block ends.

    Raise ProcessLookupError if there is none: nothing would stand still.
    """
    if not pid:  # 0 would be all of our own
        raise ProcessLookupError("there is no process to stop")
    stopped: list[int] = []
    try:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        for child in children_of(pid):
            _stop(child, stopped)
        yield
    finally:
        for each in stopped:
            with suppress(ProcessLookupError):  # the first ones to go on may end others
                os.kill(each, signal.SIGCONT)


def children_of(pid: int) -> list[int]:
    """Return the pids of the children of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _stop(pid: int, stopped: list[int]) -> None:
    """Stop a process before its descendants: it starts no more of them then."""
    with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        for child in children_of(pid):
            _stop(child, stopped)
