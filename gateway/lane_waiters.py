"""The waiters of the fast lane: a connection's grab on its way through a batch."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from gateway.desk import GrabResult, SaleDesk, told_by
from seckill.stock import Grab, Holding, Verdict

T = TypeVar("T")


class Connection(Protocol):
    """What waiters need of a connection."""

    def looked(self, result: GrabResult, desk: SaleDesk, forwarded: str) -> None:
        """Go on after a look-up."""

    def told(self, result: GrabResult) -> None:
        """Answer the grab in hand with its result."""

    def failed(self, error: BaseException) -> None:
        """Answer the grab in hand, for which there is no result."""


class _Waits(Generic[T]):
    """A connection's grab on its way through one batch (a `seckill.batching.Waiter`)."""

    __slots__ = ("_connection", "item")

    def __init__(self, item: T, connection: Connection) -> None:
        self.item = item
        self._connection: Connection | None = connection

    @property
    def gone(self) -> bool:
        """Tell whether it was answered, or the connection is gone."""
        return self._connection is None

    def fail(self, error: Exception) -> None:
        """Answer that there is no result, unless there was one."""
        if connection := self._leave():
            connection.failed(error)

    def cancel(self) -> None:
        """Let it be answered by nobody."""
        self._connection = None

    def _leave(self) -> Connection | None:
        connection, self._connection = self._connection, None
        return connection


class Grabs(_Waits[Grab]):
    """One that a script call answers."""

    __slots__ = ()

    def answer(self, result: GrabResult) -> None:
        """Answer, unless there was an answer."""
        if connection := self._leave():
            connection.told(result)


class Looks(_Waits[str]):
    """One that a look-up answers first."""

    __slots__ = ("_desk", "_forwarded")

    def __init__(
        self, buyer_id: str, connection: Connection, desk: SaleDesk, forwarded: str
    ) -> None:
        self.item, self._connection = buyer_id, connection
        self._desk, self._forwarded = desk, forwarded

    def answer(self, found: tuple[Verdict, Holding | None]) -> None:
        """Go on, unless that was done."""
        if connection := self._leave():
            connection.looked(told_by(*found), self._desk, self._forwarded)
