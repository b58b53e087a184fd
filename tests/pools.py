"""A real pool manager with its workers for tests, on the session's services."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from config.settings import PROJECT_ROOT, Settings, save_stack_settings
from ops.processes.child import Child
from ops.processes.pid_files import start_time
from ops.processes.requests import PoolRequest, pool_socket
from ops.processes.workers import pool_child
from ops.stack.services import Services
from tests.processes import eventually

#: Longest wait for a worker: some seconds on a machine that does other things, too.
PATIENCE_S = 60.0


class RunningPool:
    """`seckill pool` in a home of its own."""

    def __init__(self, settings: Settings, home: Path, *, liveness_s: float = 600) -> None:
        """Describe it; by default no worker that a test freezes is taken for one that hangs."""
        self.home = home
        self.manager: Child | None = None
        names = ("redis_url", "amqp_url", "postgres_dsn")
        stores = {name: getattr(settings, name) for name in names}
        save_stack_settings(home, {**stores, "liveness_s": liveness_s})

    async def __aenter__(self) -> RunningPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.manager:
            await self.manager.stop()

    async def start(self, consumers: int | None = None) -> None:
        """Start a manager, and return when each worker was tried once."""
        self.manager = pool_child(self.home)
        if consumers is not None:
            self.manager.once = ["--consumers", str(consumers)]
        await self.manager.start()

    async def status(self) -> dict[str, Any]:
        """Return what `seckill pool status --json` shows."""
        return await self.ask(PoolRequest("status"))

    async def ask(self, request: PoolRequest) -> dict[str, Any]:
        """Ask the manager directly."""
        return await asyncio.to_thread(pool_socket(self.home).ask, request)

    async def role(self, name: str) -> dict[str, Any]:
        """Return the figures of one role."""
        return next(role for role in (await self.status())["roles"] if role["role"] == name)

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers by name."""
        return {worker["name"]: worker for worker in (await self.status())["workers"]}

    async def pids(self) -> dict[str, int]:
        """Return the workers that run, name -> pid."""
        return {name: w["pid"] for name, w in (await self.workers()).items() if w["pid"]}

    async def seckill(self, *words: str) -> tuple[int, str, str]:
        """Run a command in this home; return its status, and what it printed to where."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ops.cli",
            *words,
            cwd=PROJECT_ROOT,
            env={
                **os.environ,
                "SECKILL_HOME": str(self.home),
                "SECKILL_LOG_FORMAT": "text",  # tests look for words in it
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def do(self, *words: str) -> None:
        """Run a `seckill pool` command that works."""
        status, _, err = await self.seckill("pool", *words)
        assert status == 0, err

    async def runs(self, role: str, count: int) -> None:
        """Wait until so many workers run a role, and the broker has as many consumers."""

        async def check() -> bool:
            figures = await self.role(role)
            return figures["running"] == count and figures["consumers"] in (None, count)

        await eventually(check, f"{role} runs {count} times", within_s=PATIENCE_S)

    async def agrees(
        self, services: Services, role: str, queue: str, *, consumers: int
    ) -> dict[str, Any]:
        """Wait until figures and broker agree on so many consumers; return the figures.

        The broker looks each 5 s. A worker runs a role some moments before its queue has one more.
        """

        async def same() -> dict[str, Any] | None:
            figures, broker = await self.role(role), await broker_figures(services, queue)
            shown = (figures["backlog"], figures["in_hand"], figures["consumers"])
            is_same = shown == tuple(broker.values()) and figures["consumers"] == consumers
            return figures if is_same else None

        found: dict[str, Any] = await eventually(same, "the same figures", within_s=PATIENCE_S)
        return found

    async def kill(self, name: str) -> None:
        """End a worker as a crash would, and wait for its successor."""
        pid = (await self.pids())[name]
        os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            worker = (await self.workers())[name]
            return bool(worker["pid"]) and worker["pid"] != pid and bool(worker["roles"])

        await eventually(replaced, f"a new {name}", within_s=PATIENCE_S)

    async def kill_manager(self) -> None:
        """End the manager as a crash would, and wait until its workers have drained."""
        assert self.manager is not None
        alive = {pid: start_time(pid) for pid in (await self.pids()).values()}
        await self.manager.kill()

        async def gone() -> bool:
            return not [pid for pid, started in alive.items() if start_time(pid) == started]

        await eventually(gone, "the workers end by themselves", within_s=PATIENCE_S)


async def rabbitmqctl(services: Services, *words: str) -> str:
    """Run a command of the broker itself, and return its output."""
    children = services.stores["rabbitmq"].children
    if not children:
        pytest.skip("a broker that the environment gave cannot be asked by rabbitmqctl")
    spec = children[-1].spec
    process = await asyncio.create_subprocess_exec(
        Path(spec.argv[0]).with_name("rabbitmqctl"),
        *words,
        env=spec.env,
        cwd=spec.cwd,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def broker_figures(services: Services, queue: str) -> dict[str, int]:
    """Ask the broker itself for the figures of a queue."""
    figures = ("messages_ready", "messages_unacknowledged", "consumers")
    out = await rabbitmqctl(
        services, "list_queues", "--silent", "--formatter", "json", "name", *figures
    )
    return next(
        {name: row[name] for name in figures} for row in json.loads(out) if row["name"] == queue
    )
