"""Where a store lives: directories, configuration files, logs and pid files below the home."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.settings import PROJECT_ROOT
from ops.processes.child import Child, Spec
from ops.processes.pid_files import POLL_S
from ops.stack.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Server:
    """A store to run: its address, and its processes in the order of their start."""

    name: str
    url: str
    address: str
    children: Sequence[Child]


@dataclass(frozen=True, slots=True)
class StackHome:
    """The home of one stack."""

    home: Path
    credentials: Credentials

    def directory(self, name: str) -> Path:
        """Make the store's own directory, closed to everyone else."""
        directory = self.home / name
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        return directory

    def spec(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: str | None = None,
        start_on_one_cpu: bool = False,
    ) -> Spec:
        """Describe a child of this home. Of our environment it sees the search path alone."""
        return Spec(
            name=name,
            argv=argv,
            env={"PATH": os.pathsep.join(os.get_exec_path()), "HOME": str(cwd), **(env or {})},
            cwd=cwd,
            log=self.home / "logs" / f"{name}.log",
            pid_file=self.home / "run" / f"{name}.pid",
            stop_signal=stop_signal,
            user=user,
            start_on_one_cpu=start_on_one_cpu,
        )


def configuration(template: str, *lines: str) -> str:
    """Return `config/<template>` with this instance's own lines at its end."""
    return "\n".join([(PROJECT_ROOT / "config" / template).read_text(), *lines, ""])


def write_private(file: Path, text: str) -> None:
    """Write a file that only this user can read; it may hold a password."""
    file.touch(mode=0o600)
    file.write_text(text)


async def until_answers(
    ask: Callable[[], Awaitable[object]], not_yet: tuple[type[Exception], ...]
) -> None:
    """Ask until an answer comes; the caller has the deadline."""
    while True:
        try:
            await ask()
        except not_yet:
            await asyncio.sleep(POLL_S)
        else:
            return
