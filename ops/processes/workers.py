"""`seckill gateway`, `consumers` and `pool start` as children of a supervisor."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from pathlib import Path

from config.settings import PROJECT_ROOT, STORES, Settings, load_settings
from ops.processes.child import Child, Spec
from ops.processes.liveness import LivenessWatch
from ops.processes.supervision import Log, Supervisor
from seckill import log_lines


def worker_settings(*secrets: str) -> Settings:
    """Set up the log of a process that works in the foreground, and return its settings.

    Raise BadSettings naming all that are missing: addresses of stores, and these secrets.
    """
    settings = load_settings()
    log_lines.set_up(settings)
    settings.require(*STORES, *secrets)
    return settings


def worker(
    command: str,
    number: int,
    overrides: dict[str, str],
    *options: str,
    home: Path | None = None,
    listens: bool = False,
) -> Child:
    """Describe `seckill <command>` as a child that reports when it is ready.

    With a home its output and pid go to files there; without one it shares ours.
    """
    name = f"{command}-{number}"
    log, pid_file = home and home / "logs" / f"{name}.log", home and home / "run" / f"{name}.pid"
    return _announced(name, [command, *options], overrides, log, pid_file, listens=listens)


def pool_child(home: Path) -> Child:
    """Describe `seckill pool start` as a child; it writes its pid file itself."""
    settings = {"SECKILL_HOME": str(home)}
    return _announced("pool", ["pool", "start"], settings, home / "logs" / "pool.log", None)


async def run_gateways(settings: Settings, count: int, log: Log) -> None:
    """Run `count` gateways on one port until cancelled.

    Each has an admin port of its own, counted up from the configured one.
    """
    ports = range(settings.admin_port, settings.admin_port + count)
    children = {
        worker(
            "gateway", n, {"SECKILL_ADMIN_PORT": str(port)}
        ): f"http://{settings.admin_host}:{port}"
        for n, port in enumerate(ports, 1)
    }
    supervisor = Supervisor(log)
    async with supervisor.running():
        try:
            await supervisor.start_all([*children])
            await LivenessWatch(lambda: children, settings.liveness_s, log).run()
        finally:
            await supervisor.stop_all([*children], settings.stop_delay_s + settings.drain_s)


def _announced(
    name: str,
    words: list[str],
    overrides: dict[str, str],
    log: Path | None,
    pid_file: Path | None,
    *,
    listens: bool = False,
) -> Child:
    """Return a `seckill` command as a child; it reports on its NOTIFY_SOCKET that it is ready."""
    ready = _ReadySocket()
    spec = Spec(
        name=name,
        argv=[sys.executable, "-m", "ops.cli", *words],
        env={**os.environ, **overrides, "NOTIFY_SOCKET": ready.address},
        cwd=PROJECT_ROOT,
        log=log,
        pid_file=pid_file,
        listens=listens,
    )
    return Child(spec, ready.ready, before=ready.open)


class _ReadySocket:
    """A datagram socket for READY=1, open while its child starts."""

    def __init__(self) -> None:
        # In Linux's abstract namespace: no file to remove.
        self.address = f"@seckill-{secrets.token_hex(8)}"

    async def open(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + self.address[1:])

    async def ready(self) -> None:
        with self._socket:
            loop = asyncio.get_running_loop()
            while b"READY=1" not in await loop.sock_recv(self._socket, 1024):
                pass
