"""The links to Redis of one client, which are dropped when they lead to the wrong node."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from seckill.adapters.failures import is_wrong_node

#: Least time between two drops: a node that stays wrong must not cost a connect for every call.
DROP_APART_S = 0.25


class LinkPool(BlockingConnectionPool):
    """A pool that drops all its links when a reply says that they lead to the wrong node.

    Behind one address another node may have taken over; links to the old node live on, and would be
    refused for ever. Those in use are dropped when they come back, because calls are under way.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - untyped in redis-py
        super().__init__(**settings)
        self._dropped_at = float("-inf")

    def make_connection(self) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Make a link that looks at each error reply."""
        link: Any = super().make_connection()  # type: ignore[no-untyped-call]
        link.read_response = partial(self._read, link.read_response)
        return link

    async def ensure_connection(self, connection: Any) -> None:  # noqa: ANN401 - untyped in redis-py
        """Connect a link that is about to be lent; one that was dropped, anew."""
        if connection.should_reconnect():
            await connection.disconnect()
        await super().ensure_connection(connection)

    async def _read(self, read: Callable[..., Awaitable[Any]], *how: Any, **more: Any) -> Any:  # noqa: ANN401
        try:
            return await read(*how, **more)
        except RedisError as error:
            if is_wrong_node(error):
                self._drop_all()
            raise

    def _drop_all(self) -> None:
        now = time.monotonic()
        if now - self._dropped_at < DROP_APART_S:
            return
        self._dropped_at = now
        link: Any
        for link in (*self._available_connections, *self._in_use_connections):
            link.mark_for_reconnect()
