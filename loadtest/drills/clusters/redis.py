"""Redis behind sentinels, or as a cluster, and what may happen to the server that has the sale.

With `--min-replicas 0` a fail-over may lose grabs. Then the sale is fenced, and the drill rebuilds
it, as an operator would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.drills.clusters.frame import Cluster, Trouble
from loadtest.stack import BenchStack
from ops.stack.servers.redis_groups import RedisGroup, cluster_group, move_slot, sentinel_group
from seckill.adapters import redis_keys
from seckill.adapters.redis_slots import slot_of
from seckill.audit import operator_name
from seckill.consistency import fencing
from seckill.consistency.rebuild import Rebuild
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

#: Replicas of each master: with one of them gone the wait for one is still met.
REPLICAS = 2
#: Longest wait until all servers are well again.
HEALED_S = 60.0


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of a group, of which the busiest master is broken."""

    group: RedisGroup

    async def busiest(self) -> int:
        """Return the port of the master that does most: it has the sale."""
        work = {}
        for port in await self.group.masters():
            stats = await self.group.ask(port, "INFO", "stats")
            work[port] = stats["instantaneous_ops_per_sec"]
        return max(work, key=lambda port: int(work[port]))

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        """Kill the master; start it again in the end."""
        port = await self.busiest()
        await self.group.servers[port].kill()
        try:
            yield
        finally:
            await self.group.servers[port].start()
            await self._heal()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Freeze the master: its connections stay open, and nothing comes over them."""
        port = await self.busiest()
        self.group.freeze(port)
        try:
            yield
        finally:
            self.group.thaw(port)
            await self._heal()

    @asynccontextmanager
    async def cut_off(self) -> AsyncIterator[None]:
        """Cut the master off from all other servers; clients still reach it."""
        port = await self.busiest()
        await self.group.cut_off(port)
        try:
            yield
        finally:
            await self.group.let_in(port)
            await self._heal()

    @asynccontextmanager
    async def resharded(self) -> AsyncIterator[None]:
        """Move the slot with the newest keys to another master."""
        source = await self.busiest()
        target = next(port for port in await self.group.masters() if port != source)
        keys = await self.group.ask(source, "KEYS", redis_keys.outbox("bench-*"))
        sale_id = max((key.decode().split("{")[1].split("}")[0] for key in keys), key=_number)
        slot = slot_of(redis_keys.stock(sale_id))
        await move_slot(self.group, slot, source, target)
        yield

    async def _heal(self) -> None:
        """Return when each master has all of its replicas, or raise SeckillError."""
        deadline, count = time.monotonic() + HEALED_S, len(self.group.servers)
        while True:
            masters = await self.group.masters()
            roles = [await self.group.ask(port, "ROLE") for port in masters]
            # One that just became a replica may still be called a master by another.
            replicas = [len(role[2]) if role[0] == b"master" else 0 for role in roles]
            if len(masters) + sum(replicas) == count and all(replicas):
                return
            if time.monotonic() > deadline:
                raise SeckillError("the servers of Redis did not find together again")
            await asyncio.sleep(0.5)


def _number(sale_id: str) -> int:
    return int(sale_id.rpartition("-")[2])


async def rebuild_fenced(stack: BenchStack, sale: Sale) -> str:
    """Rebuild the sale if Redis has lost some of it; return what was found."""
    found = await fencing.needing_rebuild(stack.redis, stack.db, [sale.sale_id])
    if not (reason := found.get(sale.sale_id)):
        return ""
    rebuild = Rebuild(stack.redis, stack.db)
    await rebuild.fence([sale.sale_id])
    await rebuild.run(sale.sale_id, actor=operator_name(), reason=reason)
    return f"rebuilt, because it was {reason}"


def _cluster(group: RedisGroup, min_replicas: int, troubles: dict[str, Trouble]) -> Cluster:
    children = [*group.servers.values(), *group.sentinels]
    settings = {"SECKILL_REDIS_MIN_REPLICAS": str(min_replicas)}
    return Cluster("redis", group.url, children, troubles, settings, after=rebuild_fenced)


@asynccontextmanager
async def sentinels(min_replicas: int, home: Path) -> AsyncIterator[Cluster]:
    """Start a master, its replicas and three sentinels, for a drill."""
    async with sentinel_group(home, replicas=REPLICAS) as group:
        at = Servers(group)
        troubles = {"killed": at.killed, "frozen": at.frozen, "cut off": at.cut_off}
        yield _cluster(group, min_replicas, troubles)


@asynccontextmanager
async def cluster(min_replicas: int, home: Path) -> AsyncIterator[Cluster]:
    """Start a cluster of three masters, for a drill."""
    async with cluster_group(home, replicas=REPLICAS) as group:
        at = Servers(group)
        troubles = {
            "killed": at.killed,
            "frozen": at.frozen,
            "cut off": at.cut_off,
            "resharded": at.resharded,
        }
        yield _cluster(group, min_replicas, troubles)
