"""Gateway and consumer processes: `seckill gateway` and `seckill consumers` as children."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from config.settings import PROJECT_ROOT, Settings
from ops.children import Child, Spec
from ops.keeper import Say, keep, start_first
from ops.tasks import together

#: A worker that was told to stop has drained after drain_s; this much later it hangs.
DRAIN_MARGIN_S = 2.0


def worker(
    command: str, number: int, overrides: dict[str, str], *, home: Path | None = None
) -> Child:
    """Describe `seckill <command>` as a child that says when it is ready.

    With a home its output and pid go to files there; without one it shares ours.
    """
    name = f"{command}-{number}"
    address, ready = _ready_socket()
    spec = Spec(
        name=name,
        argv=[sys.executable, "-m", "ops.cli", command],
        env={**os.environ, **overrides, "NOTIFY_SOCKET": address},
        cwd=PROJECT_ROOT,
        log=home and home / "logs" / f"{name}.log",
        pid_file=home and home / "run" / f"{name}.pid",
    )
    return Child(spec, ready)


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


def _ready_socket() -> tuple[str, Callable[[], Awaitable[None]]]:
    """Open a datagram socket for READY=1; return its address and a wait for that message."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    channel.bind("")  # Linux then picks a free name in its abstract namespace: no file to remove
    abstract_name: bytes = channel.getsockname()

    async def ready() -> None:
        loop = asyncio.get_running_loop()
        while b"READY=1" not in await loop.sock_recv(channel, 1024):
            pass

    return f"@{abstract_name[1:].decode()}", ready
