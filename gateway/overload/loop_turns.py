"""So many requests are passed to aiohttp in one turn of the event loop; the next ones wait.

A request of aiohttp takes ten to twenty times what a grab takes. When some hundred come in one
turn, a grab that comes with them would wait for them all, at each of its steps. So they wait in the
order in which they came, and grabs go between them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

#: Requests that are begun in one turn: by aiohttp some milliseconds. Grabs of one connection, too.
TURN_MAX = 8


class TakesTurns(Protocol):
    """A connection whose request waits for its turn."""

    def take_turn(self) -> None:
        """Go on; it may take one of the turn's requests."""


class LoopTurns:
    """What one process may pass to aiohttp, turn by turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = TURN_MAX
        self._waiting: deque[TakesTurns] = deque()

    def take(self) -> bool:
        """Take one request of this turn; False if there is none left, and it has to wait."""
        if not self._left:
            return False
        if self._left == TURN_MAX:
            self._loop.call_soon(self._begin)
        self._left -= 1
        return True

    def wait(self, connection: TakesTurns) -> None:
        """Have a connection take its turn when all that wait have had theirs."""
        self._waiting.append(connection)

    def end(self) -> None:
        """Let all that wait go on at once: the process stops."""
        while self._waiting:
            self._waiting.popleft().take_turn()

    def _begin(self) -> None:
        self._left = TURN_MAX
        while self._waiting and self._left:
            self._waiting.popleft().take_turn()
