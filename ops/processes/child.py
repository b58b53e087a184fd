"""Child processes that never outlive us.

Three measures, because each has a gap: we stop our children in order; the kernel signals them when
we are killed (`tether.py`); and a pid file lets the next start end what ignored that signal.
All of this is written for Linux; elsewhere only the first measure works.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ops.processes import pid_files
from ops.processes.tether import run_as, tethered
from seckill.errors import SeckillError

#: Longest start worth waiting for: RabbitMQ takes 5 s here, and 30 s on a busy small machine.
START_DEADLINE_S = 60.0
LOG_TAIL_LINES = 5


class StartFailed(SeckillError):
    """A process did not come up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """How to run one child."""

    name: str
    argv: Sequence[str | Path]
    env: Mapping[str, str]
    cwd: Path
    #: Where its output goes; None means where ours goes.
    log: Path | None = None
    #: Lets a later supervisor find it, see `pid_files.end_leftovers`.
    pid_file: Path | None = None
    #: The signal for a clean stop, sent by us, or by the kernel when we are killed.
    stop_signal: signal.Signals = signal.SIGTERM
    #: Run as this user (we are root then); None means as ourselves.
    user: str | None = None
    #: Longest wait until it is ready.
    start_within_s: float = START_DEADLINE_S
    #: Keep all its threads on one processor until it is ready.
    start_on_one_cpu: bool = False
    #: Its stdin takes lines, see `Child.write_line`; else that is empty.
    listens: bool = False


@dataclass(slots=True, eq=False)
class Child:
    """One process that can be started, stopped and started again in the same place."""

    spec: Spec
    #: Returns once the child does its work; asks it by the child's own protocol.
    ready: Callable[[], Awaitable[object]]
    #: Awaited before each start.
    before: Callable[[], Awaitable[None]] | None = None
    process: asyncio.subprocess.Process | None = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    #: How often its supervisor had to start it again.
    restarts: int = field(default=0, init=False)
    #: Further arguments until one start has worked; later processes do without.
    once: Sequence[str] = field(default=(), init=False)
    _line: bytes = field(default=b"", init=False)

    @property
    def name(self) -> str:
        """Its name in messages and files."""
        return self.spec.name

    @property
    def pid(self) -> int | None:
        """The pid, or None while it does not run."""
        if self.process is None or self.process.returncode is not None:
            return None
        return self.process.pid

    @property
    def age_s(self) -> float:
        """Seconds since the last start."""
        return time.monotonic() - self.started_at

    async def start(self) -> None:
        """Start it and return when it is ready, or raise StartFailed with the end of its log."""
        if self.pid is not None:
            raise AssertionError(f"bug: {self.name} already runs")
        if self.before:
            await self.before()
        try:
            await self.spawn()
        except OSError as error:  # for example not executable for that user
            raise StartFailed(f"{self.name} cannot be run: {error}") from error
        ready = asyncio.ensure_future(self.ready())
        died = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait(
                {ready, died},
                timeout=self.spec.start_within_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ready.done():
                ready.result()
                self.once = ()
                self._release_cpu()
                return
            late = f"was not ready after {self.spec.start_within_s:g} s"
            reason = self.describe_end() if died.done() else late
        except Exception as error:  # of the driver that asked: it is not usable
            reason = f"is not usable: {error!r}"
        finally:
            ready.cancel()
            died.cancel()
        await self.kill()
        raise StartFailed(f"{self.name} {reason}{log_tail(self.spec.log)}")

    async def wait(self) -> None:
        """Return when it has ended."""
        if self.process is not None:
            await self.process.wait()

    async def stop(self, grace_s: float = pid_files.STOP_GRACE_S) -> None:
        """Ask it to stop, insist after `grace_s`, and return when it is gone."""
        self.send(self.spec.stop_signal)
        self.send(signal.SIGCONT)  # a paused process handles nothing but SIGKILL
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), grace_s)
        await self.kill()

    async def kill(self) -> None:
        """End it at once, as a crash would, and return when it is gone."""
        self.send(signal.SIGKILL)
        await self.wait()
        if self.spec.pid_file:
            self.spec.pid_file.unlink(missing_ok=True)

    def write_line(self, line: str) -> None:
        """Write a line to its stdin; each later process of this child gets the last one."""
        self._line = line.encode() + b"\n"
        if self.pid is not None:
            self._write()

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it still runs."""
        if self.pid is not None:
            # Not Process.send_signal: it may reap the child before asyncio's watcher does, which
            # then reports the made-up status 255.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def describe_end(self) -> str:
        """Return how it ended: `was killed by SIGKILL`, `exited with 1`."""
        status = self.process.returncode if self.process else None
        if status is not None and status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"exited with {status}"

    async def spawn(self) -> None:
        """Create the process."""
        spec = self.spec
        with _output(spec.log, first=self.process is None) as log:
            self.process = await asyncio.create_subprocess_exec(
                spec.argv[0],
                *spec.argv[1:],
                *self.once,
                env={**spec.env, "SECKILL_RESTARTS": str(self.restarts)},
                cwd=spec.cwd,
                stdin=asyncio.subprocess.PIPE if spec.listens else asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **run_as(spec.user),
                **tethered(spec.stop_signal, one_cpu=spec.start_on_one_cpu),
            )
        self.started_at = time.monotonic()
        if spec.pid_file:
            pid_files.write(spec.pid_file, self.process.pid, spec.stop_signal)
        self._write()

    def _write(self) -> None:
        # Not drained: a line is short, and a process that has just died reads nothing anyway.
        if self._line and self.process and self.process.stdin:
            self.process.stdin.write(self._line)

    def _release_cpu(self) -> None:
        if self.spec.start_on_one_cpu and sys.platform == "linux" and self.pid:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                with suppress(ProcessLookupError):  # a thread that has just ended
                    os.sched_setaffinity(int(task.name), os.sched_getaffinity(0))


async def run_to_end(spec: Spec) -> None:
    """Run a child that has an end, and raise StartFailed unless that is a good one."""
    child = Child(spec, asyncio.Event().wait)
    await child.spawn()
    try:
        await child.wait()
    finally:
        await child.kill()
    if child.describe_end() != "exited with 0":
        raise StartFailed(f"{spec.name} {child.describe_end()}{log_tail(spec.log)}")


def log_tail(log: Path | None) -> str:
    """Name the log and show its last lines, to go at the end of an error message."""
    if log is None or not log.exists():
        return ""
    lines = dict.fromkeys(log.read_text(errors="replace").splitlines())  # each once
    return "\n  ".join([f"; the end of {log}:", *list(lines)[-LOG_TAIL_LINES:]])


def _output(log: Path | None, *, first: bool) -> AbstractContextManager[IO[bytes] | None]:
    """Open the log; the first start under a supervisor puts the last supervisor's log aside."""
    if log is None:
        return nullcontext()
    log.parent.mkdir(parents=True, exist_ok=True)
    if first:
        put_aside(log)
    return log.open("ab")


def put_aside(log: Path) -> None:
    """Keep the log of the last run, if there is one, as `<log>.old`."""
    if log.exists():
        log.replace(f"{log}.old")
