"""Other work on the core of the process under test, so that there is less of it to overload."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loadtest.stack import pinned


@contextmanager
def busy_core(core: int, processes: int) -> Iterator[None]:
    """Keep a core busy with so many processes, which leave a fair share to each other one."""
    with pinned(core):
        busy = [
            # A session each: Linux may share a core among sessions first (sched_autogroup_enabled).
            subprocess.Popen(
                [sys.executable, "-S", "-c", "while True: pass"], start_new_session=True
            )
            for _ in range(processes)
        ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
