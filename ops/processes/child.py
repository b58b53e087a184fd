"""Child processes that never outlive us.

Three nets, because each has a hole: we stop our children in order; the kernel signals them when
we are killed (PR_SET_PDEATHSIG); and a pid file lets the next start end what ignored that signal.
Linux is what all of this is written for; elsewhere only the first net is spread.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from ops.processes import pid_files
from seckill.errors import SeckillError

#: Longest start worth waiting for: RabbitMQ takes 5 s here, and 30 s on a busy small machine.
START_DEADLINE_S = 60.0
LOG_TAIL_LINES = 5

_PR_SET_PDEATHSIG = 1
# Looked up here, before any fork: loading a library between fork and exec may deadlock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


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
    #: Keep all its threads on one processor until it is ready.
    start_on_one_cpu: bool = False
    #: Lines for its stdin, see `Child.tell`; else that is empty.
    listens: bool = False
    #: Somebody else may ask it to end; then it exits with 0, and is left alone until this is there.
    wish: Path | None = None


@dataclass(slots=True)
class Child:
    """One process that can be started, stopped and started again in the same place."""

    spec: Spec
    #: Returns once the child does its work; asks it by the protocol that it speaks.
    ready: Callable[[], Awaitable[object]]
    #: Awaited before each start.
    before: Callable[[], Awaitable[None]] | None = None
    process: asyncio.subprocess.Process | None = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    #: How often its keeper had to start it again.
    restarts: int = field(default=0, init=False)
    _told: bytes = field(default=b"", init=False)

    @property
    def name(self) -> str:
        """What it is called in messages and files."""
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
        except OSError as error:  # not executable for that user, say
            raise StartFailed(f"{self.name} cannot be run: {error}") from error
        ready = asyncio.ensure_future(self.ready())
        died = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait(
                {ready, died},
                timeout=START_DEADLINE_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ready.done():
                ready.result()
                self._release_cpu()
                return
            reason = (
                self.describe_end() if died.done() else f"was not ready after {START_DEADLINE_S} s"
            )
        except Exception as error:  # whatever the driver says: it is not usable
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

    def tell(self, line: str) -> None:
        """Write a line to its stdin; each later process of this child is told the last one."""
        self._told = line.encode() + b"\n"
        if self.pid is not None:
            self._pass_on()

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it still runs."""
        if self.pid is not None:
            # Not Process.send_signal: it may reap the child before asyncio's watcher does, which
            # then reports the made-up status 255.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def describe_end(self) -> str:
        """Say how it ended: `was killed by SIGKILL`, `exited with 1`."""
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
                env=spec.env,
                cwd=spec.cwd,
                stdin=asyncio.subprocess.PIPE if spec.listens else asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **run_as(spec.user),
                **_tethered(spec),
            )
        self.started_at = time.monotonic()
        if spec.pid_file:
            pid_files.write(spec.pid_file, self.process.pid, spec.stop_signal)
        self._pass_on()

    def _pass_on(self) -> None:
        # Not drained: a line is short, and a process that has just died reads nothing anyway.
        if self._told and self.process and self.process.stdin:
            self.process.stdin.write(self._told)

    def _release_cpu(self) -> None:
        if self.spec.start_on_one_cpu and _LIBC and self.pid:
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


def run_as(user: str | None) -> dict[str, Any]:
    """Arguments of Popen that give up root for `user`."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _tethered(spec: Spec) -> dict[str, Any]:
    """Arguments of Popen for a child that ends with us.

    Its own session keeps the terminal's Ctrl-C away from it: only the supervisor hears that, and
    stops its children in order.
    """
    if threading.current_thread() is not threading.main_thread():
        # The kernel sends the signal when the creating *thread* ends, not the process.
        raise AssertionError("bug: children must be created by the main thread")
    prepare = partial(_die_with, os.getpid(), spec.stop_signal, spec.start_on_one_cpu)
    return {"start_new_session": True, "preexec_fn": prepare if _LIBC else None}


def _die_with(parent: int, stop_signal: signal.Signals, one_cpu: bool) -> None:
    """Ask the kernel for `stop_signal` when `parent` dies; runs between fork and exec.

    After the change of user, which would clear the request. It survives exec, so the shell
    scripts around Erlang hand it on to the virtual machine.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(stop_signal))
    if os.getppid() != parent:  # it died before the request was in force
        os._exit(1)
    if one_cpu:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


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
