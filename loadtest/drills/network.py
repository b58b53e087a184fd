"""Several hosts on one machine: network namespaces on a bridge, each of which can be cut off.

The stores stay where they are, on the loopback interface, and are reached through proxies on the
bridge. All of it takes root, or the right to make network namespaces.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from config.addresses import parse_address
from config.settings import PROJECT_ROOT
from loadtest.proxy import Proxy
from ops.processes.child import Child, Spec
from ops.stack.servers.server import until_answers
from seckill.errors import SeckillError

#: Networks for tests between hosts (RFC 2544), of which each run takes one.
_NETWORK = "198.18.{number}"
GATEWAY_PORT, ADMIN_PORT = 8080, 8081
STORES = "SECKILL_REDIS_URL", "SECKILL_AMQP_URL", "SECKILL_POSTGRES_DSN"


@dataclass(slots=True)
class Network:
    """A bridge, and the hosts on it."""

    number: int
    #: The settings of every process, with addresses of the stores that all hosts reach.
    environment: Mapping[str, str]
    home: Path
    children: list[Child] = field(default_factory=list)
    _hosts: list[str] = field(default_factory=list)

    @property
    def bridge(self) -> str:
        """The name of the bridge, with which all other names begin."""
        return f"sk{self.number}"

    def address(self, host: str = "") -> str:
        """Return the address of a host, or of the bridge itself."""
        last = self._hosts.index(host) + 2 if host else 1
        return f"{_NETWORK.format(number=self.number)}.{last}"

    def url(self, host: str) -> str:
        """Return where the gateway of a host answers."""
        return f"http://{self.address(host)}:{GATEWAY_PORT}"

    async def add(self, host: str) -> None:
        """Add a host, named by a short word."""
        self._hosts.append(host)
        outside, inside = self._link(host), "eth0"
        await ip("netns", "add", outside)
        await ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", outside)
        await ip("link", "set", outside, "master", self.bridge, "up")
        for words in (
            ("addr", "add", f"{self.address(host)}/24", "dev", inside),
            ("link", "set", inside, "up"),
            ("link", "set", "lo", "up"),
        ):
            await ip("-n", outside, *words)

    async def run(self, host: str, command: str, **overrides: str) -> Child:
        """Start `seckill <command>` on a host; a host has one of each."""
        address, name = self.address(host), f"{command}-{host}"
        environment = {
            **self.environment,
            "SECKILL_GATEWAY_HOST": address,
            "SECKILL_ADMIN_HOST": address,
            "SECKILL_GATEWAY_PORT": str(GATEWAY_PORT),
            "SECKILL_ADMIN_PORT": str(ADMIN_PORT),
            **overrides,
        }
        inside = "ip", "netns", "exec", self._link(host)
        spec = Spec(
            name=name,
            argv=[*inside, sys.executable, "-m", "ops.cli", command],
            env={"PATH": os.pathsep.join(os.get_exec_path()), **environment},
            cwd=PROJECT_ROOT,
            log=self.home / "logs" / f"{name}.log",
            pid_file=self.home / "run" / f"{name}.pid",
        )

        async def dial() -> None:
            _, writer = await asyncio.open_connection(address, ADMIN_PORT)
            writer.close()

        child = Child(spec, lambda: until_answers(dial, (OSError,)))
        self.children.append(child)
        await child.start()
        return child

    @asynccontextmanager
    async def cut_off(self, host: str) -> AsyncIterator[None]:
        """Take the cable out of a host, and put it in again in the end."""
        await ip("link", "set", self._link(host), "down")
        try:
            yield
        finally:
            await ip("link", "set", self._link(host), "up")

    def _link(self, host: str) -> str:
        return f"{self.bridge}-{host}"

    async def remove(self) -> None:
        """Stop all processes, and leave nothing of the network."""
        for child in self.children:
            await child.stop()
        for host in self._hosts:
            with suppress(SeckillError):
                await ip("netns", "del", self._link(host))  # its link goes with it
        await ip("link", "del", self.bridge)


async def ip(*words: str) -> None:
    """Run a command of `ip`; raise SeckillError with its words if it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            "ip", *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise SeckillError("the command `ip` is missing: apt-get install iproute2") from error
    _, complaint = await process.communicate()
    if process.returncode:
        raise SeckillError(f"ip {' '.join(words)}: {complaint.decode().strip()}")


async def lacking() -> str:
    """Return why this machine cannot have such hosts, or nothing."""
    name = f"sk-trial-{os.getpid()}"
    try:
        await ip("netns", "add", name)
        await ip("netns", "del", name)
    except SeckillError as error:
        return f"network namespaces are not allowed here ({error})"
    return ""


@asynccontextmanager
async def running_network(
    home: Path, environment: Mapping[str, str], *hosts: str
) -> AsyncIterator[Network]:
    """Make a bridge with hosts, which reach the stores of these settings; remove it in the end."""
    settings = dict(environment)
    network = Network(random.randrange(1, 255), settings, home)  # noqa: S311 - no secret
    await ip("link", "add", network.bridge, "type", "bridge")
    try:
        await ip("addr", "add", f"{network.address()}/24", "dev", network.bridge)
        await ip("link", "set", network.bridge, "up")
        for host in hosts:
            await network.add(host)
        async with AsyncExitStack() as stack:
            for name in STORES:
                store = parse_address(settings[name])
                (at,) = store.hosts
                proxy = Proxy(at.name, at.port, at=network.address())
                await stack.enter_async_context(proxy)
                place = f"{network.address()}:{proxy.port}"
                settings[name] = f"{store.scheme}://{store.user}@{place}{store.rest}"
            yield network
    finally:
        await network.remove()
