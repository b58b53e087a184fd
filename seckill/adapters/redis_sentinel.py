"""Links to the master that the sentinels name.

https://redis.io/docs/latest/develop/reference/sentinel-clients/

redis-py's own client takes the word of the first sentinel that answers, which may be cut off from
the others, waits for a frozen one, and has a pool that raises when it is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from seckill.adapters.failures import REDIS
from seckill.adapters.redis_agreement import most_agreed
from seckill.adapters.redis_links import LinkPool
from seckill.errors import Unavailable

#: Host and port.
Place = tuple[str, int]


class _MasterLink:
    """What is added to a class of connections: where to connect is asked each time."""

    pool: MasterPool

    async def connect(self) -> None:
        """Connect to the master of now; refuse a node that says that it is a replica."""
        link: Any = self
        if link.is_connected:
            return
        link.host, link.port = await self.pool.find_master()
        await super().connect()  # type: ignore[misc]  # a mixin
        await link.send_command("ROLE")
        role, *_ = await link.read_response()
        if role != b"master":
            await link.disconnect(nowait=True)
            raise RedisConnectionError(
                f"the sentinels name {link.host}:{link.port}, which is no master yet"
            )


class MasterPool(LinkPool):
    """A pool of links to one master; all are dropped when the sentinels name another one."""

    def __init__(
        self,
        sentinels: Sequence[Redis],
        name: str,
        *,
        ask_s: float,
        **settings: Any,  # noqa: ANN401 - untyped in redis-py
    ) -> None:
        super().__init__(**settings)
        self.connection_class = type("MasterLink", (_MasterLink, self.connection_class), {})
        self._sentinels, self._name, self._ask_s = sentinels, name, ask_s
        self._asking: asyncio.Task[Place] | None = None
        self._master: Place | None = None

    def make_connection(self) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Make a link that asks this pool where to connect."""
        link = super().make_connection()
        link.pool = self
        return link

    async def find_master(self) -> Place:
        """Return where the master is; callers at the same time share one question."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="ask the sentinels")
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    async def aclose(self) -> None:
        """Close the links to the master and to the sentinels."""
        if self._asking is not None:
            self._asking.cancel()
        await super().aclose()
        for sentinel in self._sentinels:
            await sentinel.aclose()

    def _asked(self, task: asyncio.Task[Place]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # who waits for it raises it

    async def _ask(self) -> Place:
        questions = [
            sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            for sentinel in self._sentinels
        ]
        found = await most_agreed([_place(each) for each in questions], timeout_s=self._ask_s)
        if found is None:
            raise Unavailable(f"Redis: no sentinel knows a master {self._name}", store=REDIS)
        if found != self._master:
            self._master = found
            self.drop_all()
        return found


async def _place(question: Any) -> Place | None:  # noqa: ANN401 - untyped in redis-py
    reply = await question
    return (reply[0].decode(), int(reply[1])) if reply else None
