"""`seckill up --detach` and `seckill pool start --detach`: the same, in a session of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from config.settings import PROJECT_ROOT
from ops.processes.child import put_aside
from ops.processes.control_socket import Reply
from ops.processes.home import only_pool_manager, only_supervisor
from ops.processes.pid_files import POLL_S
from ops.processes.requests import pool_overview, running_stack
from seckill.errors import SeckillError


def start_detached(home: Path, gateways: int, consumers: int) -> None:
    """Start a supervisor and return when its stack is ready, or raise with what it printed."""
    log = home / "logs" / "up.log"
    with only_supervisor(home):  # never the log of one that runs
        put_aside(log)
    words = ["up", "--workers", str(gateways), "--consumers", str(consumers)]
    _start("the stack", words, log, lambda: running_stack(home))


def start_pool_detached(home: Path, consumers: int | None) -> None:
    """Start a pool manager and return when it takes commands, or raise with what it printed."""
    log = home / "logs" / "pool.log"
    with only_pool_manager(home):
        put_aside(log)
    afresh = [] if consumers is None else ["--consumers", str(consumers)]
    _start("the pool", ["pool", "start", *afresh], log, lambda: pool_overview(home))


def _start(what: str, words: Sequence[str], log: Path, ready: Callable[[], Reply | None]) -> None:
    """Run a command that stays, and return when it answers.

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
            with suppress(SeckillError):  # too busy to answer
                if (reply := ready()) and reply["pid"] == process.pid:
                    process.returncode = 0  # it goes on without us, and no process waits for it
                    return
            time.sleep(POLL_S)  # between two questions whether it is ready
    except KeyboardInterrupt:
        process.terminate()  # in its own session it has not heard the Ctrl-C
        raise
    raise SeckillError(f"{what} did not start:\n{log.read_text('utf-8', 'replace').strip()}")
