"""PostgreSQL with a synchronous standby, and what may happen to the primary.

A commit is confirmed when both servers have it. When the primary is broken, the standby is promoted
at once, as a manager of fail-overs would do. Both are reached through proxies, by which one of them
can be cut off.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from loadtest.drills.clusters.frame import Cluster
from loadtest.proxy import Proxy
from loadtest.store_states.frozen import frozen
from ops.processes.child import Child, run_to_end
from ops.processes.ports import LOOPBACK, free_port
from ops.stack.credentials import load_credentials
from ops.stack.discovery import require
from ops.stack.servers import postgresql
from ops.stack.servers.server import StackHome, until_answers

#: What both servers need beside their usual configuration.
_SETTINGS = """
wal_level = replica
max_wal_senders = 4
hot_standby = on
"""
#: With any standby a commit is confirmed when both have it. A primary whose standby is gone then
#: confirms nothing: so one that was replaced without its knowledge keeps no order to itself.
_ANY, _NONE = "*", ""
#: Longest wait until both servers are well again.
HEALED_S = 60.0
#: How long the old primary works beside the new one, before it becomes its standby.
FORKED_S = 3.0


@dataclass(slots=True, eq=False)
class Member:
    """One of the two servers: its process, its folder, its port, and the proxy before it."""

    child: Child
    data: Path
    port: int
    proxy: Proxy


@dataclass(slots=True)
class Pair:
    """A primary and its standby, who change places."""

    place: StackHome
    primary: Member
    standby: Member

    @property
    def url(self) -> str:
        """Return the address that the product gets."""
        hosts = ",".join(f"{LOOPBACK}:{m.proxy.port}" for m in (self.primary, self.standby))
        return self._url(hosts, postgresql.DATABASE)

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        """Kill the primary, and promote the standby."""
        await self.primary.child.kill()
        await self.promote()
        yield
        await self.rejoin()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Freeze the primary and all its sessions, and promote the standby."""
        with frozen(self.primary.child.pid):
            await self.promote()
            yield
        await asyncio.sleep(FORKED_S)
        await self.rejoin()

    @asynccontextmanager
    async def cut_off(self) -> AsyncIterator[None]:
        """Let nothing through to the primary or from it, and promote the standby."""
        old = self.primary
        old.proxy.freeze()
        await self.promote()
        yield
        old.proxy.thaw()
        await asyncio.sleep(FORKED_S)
        await self.rejoin()

    async def promote(self) -> None:
        """Let the standby take over, who goes on without a standby of its own."""
        self.primary, self.standby = self.standby, self.primary
        await self._run("pg_ctl", "promote", "-w", "-D", str(self.primary.data))
        await self._wait_for_standbys(_NONE)

    async def rejoin(self) -> None:
        """Make the old primary, with what only it has written, the standby of the new one."""
        await self.standby.child.kill()
        await self.join()

    async def join(self) -> None:
        """Copy the primary while it runs, and start the copy as its standby."""
        member, through = self.standby, str(self.primary.proxy.port)
        await asyncio.to_thread(shutil.rmtree, member.data, ignore_errors=True)
        user = postgresql.USER
        copied = "-h", LOOPBACK, "-p", through, "-U", user, "-D", str(member.data)
        await self._run("pg_basebackup", "--checkpoint=fast", "-R", "-X", "stream", *copied)
        with (member.data / "postgresql.conf").open("a") as settings:
            settings.write(f"port = {member.port}\n")
        await member.child.start()
        await self._wait_for_standbys(_ANY)
        in_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        async with asyncio.timeout(HEALED_S):
            while await self.ask(in_sync) != 1:  # noqa: ASYNC110 - a query
                await asyncio.sleep(0.1)

    async def _wait_for_standbys(self, names: str) -> None:
        """Let commits at the primary wait for these standbys."""
        await self.ask(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await self.ask("SELECT pg_reload_conf()")

    async def ask(self, query: str, member: Member | None = None) -> object:
        """Return the first value of a query at the primary, or at one of the two."""
        port = (member or self.primary).port
        url = self._url(f"{LOOPBACK}:{port}", postgresql.DATABASE)
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    def _url(self, hosts: str, database: str) -> str:
        password = self.place.credentials.postgres_password
        return f"postgresql://{postgresql.USER}:{password}@{hosts}/{database}"

    async def _run(self, program: str, *words: str) -> None:
        spec = self.primary.child.spec
        await run_to_end(
            self.place.spec(
                program,
                [require("postgresql") / program, *words],
                cwd=self.primary.data.parent,
                env={"PGPASSWORD": self.place.credentials.postgres_password},
                user=spec.user,
            )
        )


@asynccontextmanager
async def running_pair(home: Path) -> AsyncIterator[Pair]:
    """Start both servers with their data below a home; stop them in the end."""
    place = StackHome(home, load_credentials(home))
    server = await postgresql.prepare(place)
    (child,) = server.children
    data = child.spec.cwd
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS)
    async with AsyncExitStack() as stack:
        ports = urlsplit(server.url).port or 0, free_port()
        proxies = [await stack.enter_async_context(Proxy(LOOPBACK, port)) for port in ports]
        first = Member(child, data, ports[0], proxies[0])
        twin = data.with_name("twin")
        second = Member(_second(place, child, twin, ports[1]), twin, ports[1], proxies[1])
        pair = Pair(place, first, second)
        for member in (first, second):
            stack.push_async_callback(member.child.stop)
        await child.start()
        await pair.join()
        yield pair


def _second(place: StackHome, first: Child, data: Path, port: int) -> Child:
    spec = place.spec(
        "postgresql2",
        [require("postgresql") / "postgres", "-D", data],
        cwd=data,
        stop_signal=first.spec.stop_signal,
        user=first.spec.user,
    )
    password = place.credentials.postgres_password
    url = f"postgresql://{postgresql.USER}:{password}@{LOOPBACK}:{port}/postgres"

    async def answers() -> None:
        connection = await asyncpg.connect(url, timeout=2)
        await connection.close()

    not_yet: tuple[type[Exception], ...] = (OSError, asyncpg.PostgresError)
    return Child(spec, lambda: until_answers(answers, not_yet))


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Cluster]:
    """Start both servers, for a drill."""
    async with running_pair(home) as pair:
        children: Sequence[Child] = [pair.primary.child, pair.standby.child]
        troubles = {"killed": pair.killed, "frozen": pair.frozen, "cut off": pair.cut_off}
        yield Cluster("postgresql", pair.url, children, troubles)
