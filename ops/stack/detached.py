"""`seckill up --detach` and `seckill pool start --detach`: the same, in a session of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from config.settings import PROJECT_ROOT
from ops.pool.control_socket import overview
from ops.pool.start import alone
from ops.processes.child import put_aside
from ops.processes.home import AlreadyRunning, published, supervisor
from ops.processes.pid_files import POLL_S
from seckill.errors import SeckillError


def start_detached(home: Path, gateways: int, consumers: int) -> None:
    """Start a supervisor and return when its stack is ready, or raise with what it printed."""
    if running := supervisor(home):
        raise AlreadyRunning(
            f"a stack already runs in {home} (pid {running}); stop it: seckill down"
        )

    def is_ready(pid: int) -> bool:
        state = published(home)
        return bool(state and state["ready"]) and supervisor(home) == pid

    words = ["up", "--workers", str(gateways), "--consumers", str(consumers)]
    log = home / "logs" / "up.log"
    put_aside(log)
    _start("the stack", words, log, is_ready)


def start_pool_detached(home: Path, consumers: int | None) -> None:
    """Start a pool manager and return when it takes commands, or raise with what it printed."""

    def is_ready(pid: int) -> bool:
        found = overview(home)
        return found is not None and found["pid"] == pid

    afresh = [] if consumers is None else ["--consumers", str(consumers)]
    log = home / "logs" / "pool.log"
    with alone(home):  # never the log of a manager that runs
        put_aside(log)
    _start("the pool", ["pool", "start", *afresh], log, is_ready)


def _start(what: str, words: Sequence[str], log: Path, is_ready: Callable[[int], bool]) -> None:
    """Run a command that stays.

    No deadline here: it gives up by itself when something does not come up.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.cli", *words],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            if is_ready(process.pid):
                process.returncode = 0  # it goes on without us: nobody is going to wait for it
                return
            time.sleep(POLL_S)  # until either: whether it is ready is asked, not told
    except KeyboardInterrupt:
        process.terminate()  # in its own session it has not heard the Ctrl-C
        raise
    raise SeckillError(f"{what} did not start:\n{log.read_text().strip()}")
