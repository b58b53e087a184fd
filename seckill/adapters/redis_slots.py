"""Which node of a cluster has which slot, and a client for each node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError

from config.addresses import Host
from seckill.adapters import redis_keys
from seckill.adapters.failures import REDIS
from seckill.adapters.redis_agreement import most_agreed
from seckill.errors import ForeignStore, Unavailable
from seckill.tasks import end_tasks

SLOTS = 16_384
#: Time between two looks at the map while it is doubted: a look asks every node.
LOOK_APART_S = 0.25
#: So long after a failure the map is doubted: a call that waits for a frozen node fails a second
#: after the node froze, and the others promote a replica some seconds later.
DOUBT_S = 5.0

#: For each range of slots: the first, the last, the master, and its replicas.
SlotRanges = tuple[tuple[int, int, Host, tuple[Host, ...]], ...]


def slot_of(key: str) -> int:
    """Return the slot of a key: of what stands in its first braces."""
    return key_slot(key.encode())


class SlotMap:
    """The map of the slots, as most nodes know it.

    It is read when a call meets a failure, and mended at once where a node says MOVED.
    """

    def __init__(
        self, seeds: Sequence[Host], connect: Callable[[Host], Redis], *, timeout_s: float
    ) -> None:
        self._connect, self._timeout_s = connect, timeout_s
        #: Clients of all nodes that were ever named; one without a call has no link.
        self._clients: dict[Host, Redis] = {}
        self._asked: tuple[Host, ...] = tuple(seeds)
        self._owners: list[Host | None] = [None] * SLOTS
        self._looking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._doubtful_until = float("-inf")

    async def node_of(self, slot: int) -> Redis:
        """Return the client of the master that has a slot."""
        if (owner := self._owners[slot]) is None:
            await self.look()
            if (owner := self._owners[slot]) is None:
                raise Unavailable(
                    f"Redis: no node of the cluster has slot {slot}",
                    store=REDIS,
                    code="CLUSTERDOWN",
                )
        return self.client(owner)

    async def masters(self) -> list[Redis]:
        """Return the clients of all masters that have slots."""
        if not any(self._owners):
            await self.look()
        return [self.client(host) for host in dict.fromkeys(self._owners) if host is not None]

    def client(self, host: Host) -> Redis:
        """Return the client of one node."""
        if host not in self._clients:
            self._clients[host] = self._connect(host)
        return self._clients[host]

    def moved(self, error: MovedError, asked: Redis) -> None:
        """Note what a node said about a slot; the rest of the map is looked at soon."""
        self._owners[error.slot_id] = self.place_of(error, asked)
        self.doubt(LOOK_APART_S)

    def place_of(self, error: AskError, asked: Redis) -> Host:
        """Return where a redirection leads; without a name it is the host that was asked."""
        name = error.host or asked.connection_pool.connection_kwargs["host"]
        return Host(name, int(error.port))

    def doubt(self, for_s: float = DOUBT_S) -> None:
        """Look at the map again and again for so long."""
        self._doubtful_until = max(self._doubtful_until, time.monotonic() + for_s)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="watch the slots of Redis")
            self._watching.add_done_callback(self._end_watch)

    async def look(self) -> None:
        """Look at the map now; callers at the same time share one look."""
        await asyncio.shield(self._looking or self._begin())

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close all links; each client opens new ones."""
        for client in self._clients.values():
            await client.connection_pool.disconnect(inuse_connections)

    async def aclose(self) -> None:
        """Close all clients."""
        await end_tasks(*filter(None, (self._watching, self._looking)))
        for client in self._clients.values():
            await client.aclose()

    def _begin(self) -> asyncio.Task[None]:
        self._looking = asyncio.create_task(self._look(), name="look at the slots of Redis")
        self._looking.add_done_callback(self._end)
        return self._looking

    def _end(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # who waits for it raises it

    async def _watch(self) -> None:
        while time.monotonic() < self._doubtful_until:
            with suppress(Unavailable):  # the calls that need a node report it
                await self.look()
            await asyncio.sleep(LOOK_APART_S)

    def _end_watch(self, task: asyncio.Task[None]) -> None:
        self._watching = None
        if not task.cancelled():
            task.result()  # raises a bug of the task instead of hiding it

    async def _look(self) -> None:
        ranges = await most_agreed(
            [_ranges(host, self.client(host)) for host in self._asked],
            timeout_s=self._timeout_s,
        )
        if not ranges:
            raise Unavailable(
                "Redis: no slot of the cluster has a node", store=REDIS, code="CLUSTERDOWN"
            )
        owners: list[Host | None] = [None] * SLOTS
        for first, last, master, _ in ranges:
            owners[first : last + 1] = [master] * (last + 1 - first)
        nodes = [node for *_, master, replicas in ranges for node in (master, *replicas)]
        await self._check_mark(owners)
        self._owners, self._asked = owners, tuple(dict.fromkeys((*nodes, *self._asked)))[:24]

    async def _check_mark(self, owners: Sequence[Host | None]) -> None:
        """Raise ForeignStore if this cluster is another installation's.

        A link to the node that has the mark compares it. The links to the others cannot.
        """
        owner = owners[slot_of(redis_keys.installation())]
        if owner is None:
            return
        try:
            await self.client(owner).ping()
        except ForeignStore:
            raise
        except (RedisError, OSError):
            return  # a node that is away is met by the calls that need it


async def _ranges(asked: Host, client: Redis) -> SlotRanges:
    reply: Any = await client.execute_command("CLUSTER", "SLOTS")
    return tuple(
        sorted(
            (first, last, _host(master, asked), tuple(sorted(_host(r, asked) for r in replicas)))
            for first, last, master, *replicas in reply
        )
    )


def _host(node: Sequence[Any], asked: Host) -> Host:
    """Return the address of a node; a node that does not know its own has that of the asked one."""
    name = (node[0] or b"").decode()
    return Host(name if name not in ("", "?") else asked.name, node[1])
