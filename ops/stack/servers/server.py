"""Where a store lives: directories, configuration files, logs and pid files below the home."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.settings import PROJECT_ROOT
from ops.processes.child import START_DEADLINE_S, Child, Spec, StartFailed
from ops.processes.pid_files import POLL_S
from ops.processes.tether import run_as
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

    def unprivileged(
        self, name: str, preferred: str, *, unusable: frozenset[str] = frozenset()
    ) -> tuple[Path, str | None]:
        """Return the store's own directory, and the user to run it as when we are root.

        That is Debian's own user for the store, else `nobody`. A home that the user cannot reach
        (below /root, say), or whose path has a character that the store cannot work with, is no
        use; the data then goes to /var/tmp, which survives a reboot, under a name made from the
        home.
        """
        directory = self.directory(name)
        is_usable = unusable.isdisjoint(str(directory))
        if os.geteuid() != 0:
            me = pwd.getpwuid(os.geteuid()).pw_name
            return directory if is_usable else self._elsewhere(directory, preferred, me), None
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = preferred if preferred in known else "nobody"
        give(directory, user)
        reachable = subprocess.run(["test", "-w", directory], cwd="/", check=False, **run_as(user))  # noqa: S607
        if is_usable and reachable.returncode == 0:
            return directory, user
        elsewhere = self._elsewhere(directory, preferred, user)
        give(elsewhere, user)
        return elsewhere, user

    def _elsewhere(self, directory: Path, preferred: str, user: str) -> Path:
        """Return a directory of /var/tmp in the place of one of the home, with what is in that."""
        home_id = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        elsewhere = Path("/var/tmp") / f"seckill-{preferred}-{home_id}"  # noqa: S108 - ownership is checked
        elsewhere.mkdir(mode=0o700, exist_ok=True)
        if elsewhere.is_symlink() or elsewhere.owner() not in (user, "root"):
            raise StartFailed(f"{preferred}: {elsewhere} belongs to {elsewhere.owner()}")
        if not any(elsewhere.iterdir()):  # data of a time when root ran the store
            for each in directory.iterdir():
                shutil.move(each, elsewhere)
        return elsewhere

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
        start_within_s: float = START_DEADLINE_S,
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
            start_within_s=start_within_s,
        )


def give(path: Path, user: str) -> None:
    """Make a path, and all below it, the property of a user."""
    for each in [path, *path.rglob("*")]:
        if not each.is_symlink() and each.owner() != user:
            shutil.chown(each, user, pwd.getpwnam(user).pw_gid)


def configuration(template: str, *lines: str) -> str:
    """Return `config/<template>` with this instance's own lines at its end."""
    return "\n".join([(PROJECT_ROOT / "config" / template).read_text("utf-8"), *lines, ""])


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
