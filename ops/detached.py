"""`seckill up --detach`: the same supervisor in a session of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from config.settings import PROJECT_ROOT
from ops.home import AlreadyRunning, published, supervisor
from ops.pid_files import POLL_S
from seckill.errors import SeckillError


def start_detached(home: Path, gateways: int, consumers: int) -> None:
    """Start a supervisor and return when its stack is ready, or raise with what it printed.

    No deadline here: it gives up by itself when something does not come up.
    """
    if running := supervisor(home):
        raise AlreadyRunning(
            f"a stack already runs in {home} (pid {running}); stop it: seckill down"
        )
    log = home / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    counts = ["--workers", str(gateways), "--consumers", str(consumers)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "up", *counts],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            state = published(home)
            if state and state["ready"] and supervisor(home) == process.pid:
                process.returncode = 0  # it goes on without us: nobody is going to wait for it
                return
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        process.terminate()  # in its own session it has not heard the Ctrl-C
        raise
    raise SeckillError(f"the stack did not start:\n{log.read_text().strip()}")
