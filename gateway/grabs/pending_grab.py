"""The waiters of the fast lane: a connection's grab on its way through a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class GrabConnection(Protocol):
    """What waiters need of a connection."""

    def failed(self, error: BaseException) -> None:
        """Answer the grab in hand, for which there is no result."""


class PendingGrab(Generic[T, R]):
    """A connection's grab on its way through one batch (a `seckill.micro_batcher.Waiter`).

    `then` takes the answer.
    """

    __slots__ = ("_connection", "_then", "item")

    def __init__(self, item: T, connection: GrabConnection, then: Callable[[R], None]) -> None:
        self.item = item
        self._connection: GrabConnection | None = connection
        self._then = then

    @property
    def gone(self) -> bool:
        """Tell whether it was answered, or the connection is gone."""
        return self._connection is None

    def answer(self, result: R) -> None:
        """Take the answer, unless there was one."""
        if self._connection is not None:
            self._connection = None
            self._then(result)

    def fail(self, error: Exception) -> None:
        """Answer that there is no result, unless there was one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.failed(error)

    def cancel(self) -> None:
        """Let it be answered by nobody."""
        self._connection = None
