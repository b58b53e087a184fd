"""Several Redis servers as shops have them: a master with replicas and sentinels, or a cluster.

They are for tests and drills: one can kill, freeze or cut off each server, and move slots.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ops.processes.child import Child
from ops.processes.ports import LOOPBACK, free_port
from ops.processes.tasks import together
from ops.stack.credentials import load_credentials
from ops.stack.discovery import require
from ops.stack.servers.server import StackHome, configuration, write_private
from seckill.adapters import redis_keys
from seckill.adapters.redis_slots import slot_of
from seckill.errors import SeckillError

#: After so long without an answer the others take a server for dead.
DEAD_AFTER_MS = 2_000
MASTER = "shop"
SLOTS = 16_384
#: Servers connect to each other from here, clients from the usual address.
SOURCES = "127.0.1.0/24"
#: Between two looks whether something has happened.
POLL_S = 0.05
#: For one answer of one server to an operator.
ANSWER_S = 5.0


@dataclass(slots=True)
class RedisGroup:
    """The servers by port. `url` is the address of all of them for a client."""

    home: StackHome
    url: str = ""
    servers: dict[int, Child] = field(default_factory=dict)
    sentinels: list[Child] = field(default_factory=list)
    #: Port -> the address from which this server connects to others.
    sources: dict[int, str] = field(default_factory=dict)
    #: Port -> the port for the other nodes of a cluster.
    buses: dict[int, int] = field(default_factory=dict)

    def client(self, port: int) -> Redis:
        """Return a client of one server, for an operator."""
        password = self.home.credentials.redis_password
        once = Retry(NoBackoff(), 0)
        return Redis(
            host=LOOPBACK, port=port, password=password, socket_timeout=ANSWER_S, retry=once
        )

    async def ask(self, port: int, *words: object) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Send one command to one server."""
        async with self.client(port) as client:
            return await client.execute_command(*words)

    async def masters(self) -> list[int]:
        """Return the ports of the servers that answer and call themselves masters."""
        found = []
        for port in self.servers:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S / 5):
                    if (await self.ask(port, "ROLE"))[0] == b"master":
                        found.append(port)
        return found

    async def owner(self, sale_id: str) -> int:
        """Return the port of the master that has a sale."""
        masters = await self.masters()
        if self.sentinels:
            return masters[0]
        slot = slot_of(redis_keys.stock(sale_id))
        for first, last, (_, port, *_), *_ in await self.ask(masters[0], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return int(port)
        raise AssertionError(f"bug: no server has slot {slot}")

    def freeze(self, port: int) -> None:
        """Let a server accept connections and answer nothing."""
        self.servers[port].send(signal.SIGSTOP)

    def thaw(self, port: int) -> None:
        """Let a frozen server go on."""
        self.servers[port].send(signal.SIGCONT)

    async def cut_off(self, port: int) -> None:
        """Let a server and all others lose sight of each other; clients still reach it."""
        await self._filter("-I", port)

    async def let_in(self, port: int) -> None:
        """Let a server that was cut off see the others again."""
        await self._filter("-D", port)

    async def _filter(self, change: str, port: int) -> None:
        rules = [("-s", self.sources[port]), ("-s", SOURCES, "-p", "tcp", "--dport", str(port))]
        if bus := self.buses.get(port):
            rules.append(("-p", "tcp", "--dport", str(bus)))
        for rule in rules:
            words = ("iptables", "-w", change, "INPUT", *rule, "-j", "DROP")
            process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
            _, complaint = await process.communicate()
            if process.returncode:
                raise SeckillError(f"to cut a server off takes root: {complaint.decode().strip()}")

    async def stop(self) -> None:
        """Stop all servers."""
        await together(*(child.stop() for child in (*self.sentinels, *self.servers.values())))

    def add(self, name: str, *lines: str) -> int:
        """Describe one more server; return its port."""
        port, directory = free_port(), self.home.directory(name)
        config = directory / "redis.conf"
        password = self.home.credentials.redis_password
        self.sources[port] = SOURCES.replace("0/24", str(len(self.servers) + 1))
        own = (
            f"port {port}",
            f"dir {directory}",
            f"requirepass {password}",
            f"bind-source-addr {self.sources[port]}",
            # Without the pause in which a master waits for more replicas to join a copy.
            "repl-diskless-sync-delay 0",
        )
        write_private(config, configuration("redis.conf", *own, f"masterauth {password}", *lines))
        spec = self.home.spec(name, [require("redis"), config], cwd=directory)
        self.servers[port] = Child(spec, lambda: self._until_up(port))
        return port

    async def _until_up(self, port: int) -> None:
        while True:
            with suppress(RedisError, OSError):
                await self.ask(port, "PING")
                return
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def sentinel_group(home: Path, *lines: str, replicas: int = 2) -> AsyncIterator[RedisGroup]:
    """Run a master, its replicas and three sentinels; `lines` are settings of each server."""
    group = RedisGroup(StackHome(home, load_credentials(home)))
    password = group.home.credentials.redis_password
    lines = (f"replica-announce-ip {LOOPBACK}", *lines)
    first = group.add("redis-1", *lines)
    for number in range(replicas):
        group.add(f"redis-{number + 2}", f"replicaof {LOOPBACK} {first}", *lines)
    ports = [free_port() for _ in range(3)]
    for number, port in enumerate(ports, start=1):
        directory = group.home.directory(f"sentinel-{number}")
        config = directory / "sentinel.conf"
        settings = (
            f"port {port}",
            f"bind {LOOPBACK}",
            f"bind-source-addr {SOURCES.replace('0/24', str(100 + number))}",
            f"sentinel announce-ip {LOOPBACK}",
            f"dir {directory}",
            f"sentinel monitor {MASTER} {LOOPBACK} {first} 2",
            f"sentinel auth-pass {MASTER} {password}",
            f"sentinel down-after-milliseconds {MASTER} {DEAD_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} {5 * DEAD_AFTER_MS}",
        )
        write_private(config, "\n".join((*settings, "")))
        argv: list[str | Path] = [require("redis"), config, "--sentinel"]
        spec = group.home.spec(f"sentinel-{number}", argv, cwd=directory)
        group.sentinels.append(Child(spec, _until_listens(port)))
    hosts = ",".join(f"{LOOPBACK}:{port}" for port in ports)
    group.url = f"redis+sentinel://default:{password}@{hosts}/{MASTER}"
    try:
        await together(*(child.start() for child in group.servers.values()))
        await _until(lambda: _has_replicas(group, first, replicas))
        await together(*(child.start() for child in group.sentinels))
        await _until(lambda: _know_each_other(ports, replicas))
        yield group
    finally:
        await group.stop()


@asynccontextmanager
async def cluster_group(
    home: Path, *lines: str, masters: int = 3, replicas: int = 1
) -> AsyncIterator[RedisGroup]:
    """Run a cluster of so many masters, each with so many replicas."""
    group = RedisGroup(StackHome(home, load_credentials(home)))
    for number in range(masters * (1 + replicas)):
        bus = free_port()
        port = group.add(
            f"redis-{number + 1}",
            "cluster-enabled yes",
            f"cluster-port {bus}",
            f"cluster-announce-ip {LOOPBACK}",
            f"cluster-node-timeout {DEAD_AFTER_MS}",
            "cluster-replica-validity-factor 0",
            *lines,
        )
        group.buses[port] = bus
    ports = list(group.servers)
    password = group.home.credentials.redis_password
    hosts = ",".join(f"{LOOPBACK}:{port}" for port in ports[:masters])
    group.url = f"redis+cluster://default:{password}@{hosts}"
    try:
        await together(*(child.start() for child in group.servers.values()))
        await _form(group, ports, masters)
        yield group
    finally:
        await group.stop()


async def move_slot(group: RedisGroup, slot: int, source: int, target: int) -> None:
    """Move a slot from one master to another while clients work on it."""
    names = {port: (await group.ask(port, "CLUSTER", "MYID")).decode() for port in (source, target)}
    await group.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    await group.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    password = group.home.credentials.redis_password
    address = (LOOPBACK, target, "", 0, int(ANSWER_S * 1000), "AUTH", password, "KEYS")
    while keys := await group.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        await group.ask(source, "MIGRATE", *address, *keys)
    for port in (target, source, *await group.masters()):
        await group.ask(port, "CLUSTER", "SETSLOT", slot, "NODE", names[target])


async def _form(group: RedisGroup, ports: Sequence[int], masters: int) -> None:
    """Let the servers meet, share the slots, and give each master its replica."""
    names = {port: (await group.ask(port, "CLUSTER", "MYID")).decode() for port in ports}
    for at, port in enumerate(ports):
        await group.ask(port, "CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        if at:
            await group.ask(ports[0], "CLUSTER", "MEET", LOOPBACK, port, group.buses[port])
        if at < masters:
            share = range(SLOTS * at // masters, SLOTS * (at + 1) // masters)
            await group.ask(port, "CLUSTER", "ADDSLOTS", *share)
    for at, port in enumerate(ports[masters:]):
        master = ports[at % masters]
        await _until(lambda port=port, master=master: _knows(group, port, names[master]))
        await group.ask(port, "CLUSTER", "REPLICATE", names[master])
    await _until(lambda: _is_whole(group, masters))


async def _knows(group: RedisGroup, port: int, name: str) -> bool:
    return name in str(await group.ask(port, "CLUSTER", "NODES"))


async def _is_whole(group: RedisGroup, masters: int) -> bool:
    for port in group.servers:
        if "cluster_state:ok" not in str(await group.ask(port, "CLUSTER", "INFO")):
            return False
    leaders = await group.masters()
    replicas = [len((await group.ask(port, "ROLE"))[2]) for port in leaders]
    return len(leaders) == masters and all(replicas)


async def _has_replicas(group: RedisGroup, port: int, count: int) -> bool:
    """Return whether so many replicas have all that their master wrote."""
    return bool(await group.ask(port, "WAIT", count, 100) == count)


async def _know_each_other(ports: Sequence[int], replicas: int) -> bool:
    for port in ports:
        async with Redis(host=LOOPBACK, port=port, socket_timeout=ANSWER_S) as sentinel:
            state: Any = await sentinel.sentinel_master(MASTER)
        if state["num-other-sentinels"] < len(ports) - 1 or state["num-slaves"] < replicas:
            return False
    return True


def _until_listens(port: int) -> Any:  # noqa: ANN401 - as Child wants it
    async def wait() -> None:
        async with Redis(host=LOOPBACK, port=port) as sentinel:
            await _until(sentinel.ping)

    return wait


async def _until(ask: Any) -> None:  # noqa: ANN401 - returns something awaitable
    """Ask until the answer is yes; the caller, or the test, has the deadline."""
    while True:
        with suppress(RedisError, OSError):
            if await ask():
                return
        await asyncio.sleep(POLL_S)
