"""PgBouncer in transaction mode before a PostgreSQL, as a process of a test.

if line := missing():
    ...  # what this machine lacks, and what to type
async with in_front(services.postgres_dsn) as dsn:
    ...  # the same database through the pooler
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from ops.processes.child import Child, Spec
from ops.processes.ports import LOOPBACK, free_port
from ops.stack.servers.server import until_answers
from ops.stack.services import temporary_home

# As Debian's package has it, but for the mode. The pooler takes its sessions in turn, so that two
# transactions of one client are hardly ever in the same one.
CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = {loopback}
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {home}/users
pool_mode = transaction
server_round_robin = 1
min_pool_size = {sessions}
default_pool_size = {sessions}
max_client_conn = 1000
"""


def missing() -> str:
    """Return what to type to get it, "" if it is there."""
    return "" if _program() else "type: sudo apt-get install pgbouncer"


@asynccontextmanager
async def in_front(dsn: str, *, sessions: int = 3) -> AsyncIterator[str]:
    """Run it before a server while the block runs, with so many sessions; yield its address."""
    server, listen_port = urlsplit(dsn), free_port()
    with temporary_home() as home:
        # Both are read by a user that is not us: as root it does not start.
        (home / "users").write_text(f'"{server.username}" "{server.password}"\n')
        (home / "pgbouncer.ini").write_text(
            CONFIGURATION.format(
                host=server.hostname,
                port=server.port,
                loopback=LOOPBACK,
                listen_port=listen_port,
                home=home,
                sessions=sessions,
            )
        )
        spec = Spec(
            name="pgbouncer",
            argv=[_program() or "pgbouncer", home / "pgbouncer.ini"],
            env={"PATH": os.environ["PATH"]},
            cwd=home,
            log=home / "pgbouncer.log",
            pid_file=home / "pgbouncer.pid",
            user=pwd.getpwuid(65534).pw_name if os.geteuid() == 0 else None,
        )
        pooled = server._replace(
            netloc=f"{server.username}:{server.password}@{LOOPBACK}:{listen_port}"
        ).geturl()
        child = Child(spec, lambda: _answers(pooled))
        try:
            await child.start()
            await _open_sessions(pooled, sessions)
            yield pooled
        finally:
            await child.stop()


def _program() -> str | None:
    """Find it; Debian keeps it in sbin, which an ordinary user's path lacks."""
    return shutil.which("pgbouncer", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))


async def _open_sessions(dsn: str, number: int) -> None:
    """Begin so many transactions at once: the pooler opens a session when all others are in use."""
    async with AsyncExitStack() as stack:
        for _ in range(number):
            connection = await asyncpg.connect(dsn, statement_cache_size=0)
            stack.push_async_callback(connection.close)
            # The pooler ends a session that its client leaves in mid-transaction.
            stack.push_async_callback(connection.execute, "ROLLBACK")
            await connection.execute("BEGIN")


async def _answers(dsn: str) -> None:
    async def ask() -> None:
        await (await asyncpg.connect(dsn, timeout=2)).close()

    await until_answers(ask, (OSError, asyncpg.PostgresError))
