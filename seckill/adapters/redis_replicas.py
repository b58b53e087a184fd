"""Waiting until replicas have what a batch wrote, before anybody is told of it.

Replication of Redis is asynchronous: a master that dies takes the last writes with it, unless a
replica has them. WAIT tells how many replicas have all that a connection wrote, WAITAOF how many
have it on disk. https://redis.io/docs/latest/commands/wait/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.asyncio.client import Pipeline

import lua
from seckill.adapters import redis_keys
from seckill.adapters.failures import REDIS
from seckill.errors import Unavailable

#: The scripts whose replies promise something to a buyer.
PROMISING = ("grab",)
#: The marks that are written before a wait expire by themselves.
MARK_MS = 60_000
#: Share of the time limit of a call that a wait may take: the rest is for the scripts.
SHARE = 0.5


@dataclass(frozen=True, slots=True)
class ReplicaWait:
    """How many replicas must have a batch."""

    count: int
    #: Whether they must have it on disk.
    on_disk: bool
    timeout_ms: int
    #: Digests of the scripts that are waited for.
    digests: frozenset[str]

    def add_to(self, pipe: Pipeline, key: str, *, asking: bool = False) -> None:
        """Wait behind the commands of a pipeline, one of which is on this key: two replies more.

        A repeat of a grab writes nothing, and a connection that has written nothing waits for
        nothing. So it writes a mark first: what replicas have of the mark they have of the grab.
        """
        tag = key[key.index("{") + 1 : key.index("}")]
        if asking:
            pipe.execute_command("ASKING")
        pipe.set(redis_keys.replication_mark(tag), b"", px=MARK_MS)
        if self.on_disk:
            pipe.execute_command("WAITAOF", 0, self.count, self.timeout_ms)
        else:
            pipe.execute_command("WAIT", self.count, self.timeout_ms)

    def failure(self, written: object, waited: Any) -> Exception | None:  # noqa: ANN401 - a reply
        """Return why a batch does not count, from the two replies; None if it does."""
        for reply in (written, waited):
            if isinstance(reply, Exception):
                return reply
        have = waited[1] if self.on_disk else waited
        if have >= self.count:
            return None
        where = " on disk" if self.on_disk else ""
        return Unavailable(
            f"Redis: {have} replicas have the last grabs{where} and {self.count} must "
            "(SECKILL_REDIS_MIN_REPLICAS)",
            store=REDIS,
            code="MINREPLICAS",
        )


def replica_wait(count: int, *, on_disk: bool, timeout_s: float) -> ReplicaWait | None:
    """Return the wait of a client; None if no replica has to have anything."""
    if not count:
        return None
    digests = frozenset(map(lua.digest, PROMISING))
    return ReplicaWait(count, on_disk, max(1, int(timeout_s * SHARE * 1000)), digests)
