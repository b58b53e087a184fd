"""The links to Redis of one client, which are dropped when they lead to the wrong node."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from seckill.adapters.failures import is_wrong_node

#: Least time between two drops: a node that stays wrong must not cost a connect for every call.
DROP_APART_S = 0.25


class _WatchedLink:
    """What is added to a class of connections: a look at each error reply."""

    on_wrong_node: Callable[[], None]

    async def read_response(self, *how: Any, **more: Any) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Read a reply as ever, and report that it came from the wrong node."""
        try:
            return await super().read_response(*how, **more)  # type: ignore[misc]  # a mixin
        except RedisError as error:
            if is_wrong_node(error):
                self.on_wrong_node()
            raise


class LinkPool(BlockingConnectionPool):
    """A pool that drops all its links when a reply says that they lead to the wrong node.

    Behind one address another node may have taken over; links to the old node live on, and would be
    refused for ever. Those in use are dropped when they come back, because calls are under way.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - untyped in redis-py
        super().__init__(**settings)
        # With or without TLS, or over a socket file.
        self.connection_class = type("WatchedLink", (_WatchedLink, self.connection_class), {})
        self._dropped_at = float("-inf")

    def make_connection(self) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Make a link that reports to this pool."""
        link: Any = super().make_connection()  # type: ignore[no-untyped-call]  # untyped
        link.on_wrong_node = self._drop_all_now_and_then
        return link

    async def ensure_connection(self, connection: Any) -> None:  # noqa: ANN401 - untyped in redis-py
        """Connect a link that is about to be lent; one that was dropped, anew."""
        if connection.should_reconnect():
            await connection.disconnect()
        await super().ensure_connection(connection)

    def _drop_all_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._dropped_at >= DROP_APART_S:
            self._dropped_at = now
            self.drop_all()

    def drop_all(self) -> None:
        """Let each link connect anew before it is lent again."""
        link: Any
        for link in (*self._available_connections, *self._in_use_connections):
            link.mark_for_reconnect()
