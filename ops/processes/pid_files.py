"""Pid files that name one process for certain: pid, start time, and the signal that stops it."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

#: A store flushes and leaves within 3 s; beyond this it hangs and only SIGKILL helps.
STOP_GRACE_S = 15.0
#: Between two looks at a process that should end: too short to notice, and it costs nothing.
POLL_S = 0.05


def start_time(pid: int) -> str | None:
    """When `pid` started (in ticks since boot), or None when it has ended.

    The kernel gives a pid again, but not with the same start: a stale file never points at a
    stranger.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state == "Z" else fields[18]


def wait_for_end(pid: int, started: str | None, timeout_s: float = math.inf) -> bool:
    """Return True once a process that is no child of ours has ended; False when time is up.

    `started` is its start time as it was before it was asked to end; None: it had ended by then.
    """
    deadline = time.monotonic() + timeout_s
    while started is not None and start_time(pid) == started:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)  # the kernel reports the end of a process to its parent alone
    return True


def write(file: Path, pid: int, stop_signal: signal.Signals) -> None:
    """Record a process that we have just started."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{pid} {start_time(pid)} {int(stop_signal)}")


def end_leftovers(run_dir: Path, names: str = "*") -> list[str]:
    """End what a killed supervisor left behind, of these names (a pattern); return the names."""
    alive: dict[str, tuple[int, str]] = {}
    files = sorted(run_dir.glob(f"{names}.pid"))
    for file in files:
        pid, started, stop_signal = _read(file)
        if started and start_time(pid) == started:
            alive[file.stem] = (pid, started)
            _send(pid, stop_signal)
            _send(pid, signal.SIGCONT)  # a paused process handles nothing but SIGKILL
    deadline = time.monotonic() + STOP_GRACE_S
    for pid, started in alive.values():
        if not wait_for_end(pid, started, deadline - time.monotonic()):
            _send(pid, signal.SIGKILL)
            wait_for_end(pid, started)
    for file in files:
        file.unlink(missing_ok=True)
    return list(alive)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it is just ending, as its supervisor's death made it
        os.kill(pid, number)


def _read(file: Path) -> tuple[int, str, int]:
    try:
        pid, started, stop_signal = file.read_text().split()
    except (OSError, ValueError):  # it has just ended, or the supervisor was killed as it wrote
        return 0, "", 0
    return int(pid), started, int(stop_signal)
