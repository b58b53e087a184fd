"""A private PostgreSQL. It refuses to run as root, so root runs it as another user."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import asyncpg

from ops.processes.child import Child, run_to_end
from ops.processes.pid_files import POLL_S
from ops.processes.ports import LOOPBACK, kept_port
from ops.stack.discovery import require
from ops.stack.servers.server import Server, StackHome, configuration, until_answers

USER = "seckill"
DATABASE = "seckill"


async def prepare(place: StackHome) -> Server:
    """Make the database cluster at the first start, write its configuration, describe it."""
    binaries = require("postgresql")
    directory, user = place.unprivileged("postgresql", "postgres")
    port = kept_port(place.home, "postgresql")
    data = directory / "data"
    if not data.exists():
        await _initialise(place, binaries, data, user)
    (data / "postgresql.conf").write_text(configuration("postgresql.conf", f"port = {port}"))
    password = place.credentials.postgres_password
    server_url = f"postgresql://{USER}:{password}@{LOOPBACK}:{port}"
    spec = place.spec(
        "postgresql",
        [binaries / "postgres", "-D", data],
        cwd=data,
        stop_signal=signal.SIGINT,  # "fast": ends the sessions; SIGTERM would wait for them
        user=user,
    )
    child = Child(spec, lambda: _answers(server_url), lambda: _orphans_gone(data))
    return Server("postgresql", f"{server_url}/{DATABASE}", f"{LOOPBACK}:{port}", [child])


async def _initialise(place: StackHome, binaries: Path, data: Path, user: str | None) -> None:
    """Run initdb in a directory beside `data` and rename it: a kill leaves nothing half made."""
    new, password = data.with_name("new"), data.with_name("password")
    shutil.rmtree(new, ignore_errors=True)
    password.touch(mode=0o600)
    password.write_text(place.credentials.postgres_password)
    if user:
        shutil.chown(password, user)
    argv: Sequence[str | Path] = [
        binaries / "initdb",
        *("--pgdata", new, "--username", USER, "--pwfile", password),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
        "--no-sync",  # a machine that crashes in this second has no orders to lose
    ]
    try:
        await run_to_end(place.spec("initdb", argv, cwd=data.parent, user=user))
    finally:
        password.unlink()
    new.rename(data)


async def _orphans_gone(data: Path) -> None:
    """Wait until the backends of a killed server have noticed and left.

    Until then they hold its shared memory block, whose id is in postmaster.pid, and a new server
    refuses to start ("pre-existing shared memory block is still in use").
    """
    with suppress(OSError, IndexError):  # the last stop was clean, or no Linux
        block = (data / "postmaster.pid").read_text().splitlines()[6].split()[1]

        def attached() -> bool:
            lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
            return any(row[1] == block and row[6] != "0" for row in map(str.split, lines))

        while attached():  # noqa: ASYNC110 - the kernel offers no event for this
            await asyncio.sleep(POLL_S)


async def _answers(server_url: str) -> None:
    """Wait for a connection, and make the database unless it is there."""

    async def ask() -> None:
        connection = await asyncpg.connect(f"{server_url}/postgres", timeout=2)
        try:
            known = "SELECT 1 FROM pg_database WHERE datname = $1"
            if not await connection.fetchval(known, DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()

    not_yet = (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError)
    await until_answers(ask, not_yet)
