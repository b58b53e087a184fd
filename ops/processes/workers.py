"""Processes that do the work: `seckill gateway`, `consumers` and `pool start` as children."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from config.settings import PROJECT_ROOT, Settings, load_settings
from ops.processes.child import Child, Spec
from ops.processes.restarts import Say, keep, start_first
from ops.processes.tasks import together

#: A worker that was told to stop has drained after drain_s; this much later it hangs.
DRAIN_MARGIN_S = 2.0


def worker_settings() -> Settings:
    """Set up the log of a process that works in the foreground, and return its settings."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = load_settings()
    settings.require_stores()
    return settings


def worker(
    command: str,
    number: int,
    overrides: dict[str, str],
    *options: str,
    home: Path | None = None,
    listens: bool = False,
) -> Child:
    """Describe `seckill <command>` as a child that says when it is ready.

    With a home its output and pid go to files there; without one it shares ours.
    """
    name = f"{command}-{number}"
    return announced(
        Spec(
            name=name,
            argv=[sys.executable, "-m", "ops.cli", command, *options],
            env={**os.environ, **overrides},
            cwd=PROJECT_ROOT,
            log=home and home / "logs" / f"{name}.log",
            pid_file=home and home / "run" / f"{name}.pid",
            listens=listens,
        )
    )


async def run_gateways(settings: Settings, count: int, say: Say) -> None:
    """Run `count` gateways on one port until cancelled.

    Each has an admin port of its own, counted up from the configured one.
    """
    children = [
        worker("gateway", number, {"SECKILL_ADMIN_PORT": str(settings.admin_port + number - 1)})
        for number in range(1, count + 1)
    ]
    try:
        await keep_all(children, say)
    finally:
        await stop_all(children, settings.drain_s)


async def keep_all(
    children: list[Child],
    say: Say,
    started: Callable[[], None] = lambda: None,
    changed: Callable[[], None] = lambda: None,
) -> None:
    """Start all of them, call `started`, then keep them alive until cancelled."""
    await together(*(start_first(child, say) for child in children))
    started()
    await together(*(keep(child, say, changed) for child in children))


async def stop_all(children: list[Child], drain_s: float) -> None:
    """Stop all of them at once: each drains, and is killed when it takes too long."""
    await together(*(child.stop(drain_s + DRAIN_MARGIN_S) for child in children))


def announced(spec: Spec) -> Child:
    """Return a child that is ready when it says so on its NOTIFY_SOCKET."""
    ready = _ReadySocket()
    env = {**spec.env, "NOTIFY_SOCKET": ready.address}
    return Child(replace(spec, env=env), ready.ready, before=ready.open)


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
