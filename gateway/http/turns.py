"""A share of each turn of the event loop: costly work that strangers can ask for takes no more."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.http.problems import Problem, Refused


class TurnShares:
    """So many shares in each turn of the loop; who finds none left waits, first come first."""

    def __init__(self, *, each_turn: int, waiting_max: int) -> None:
        self._each_turn, self._waiting_max = each_turn, waiting_max
        self._left = each_turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Take a share, in this turn or a later one; raise Refused when too many wait."""
        loop = asyncio.get_running_loop()
        if self._left == self._each_turn:
            loop.call_soon(self._next_turn)
        if self._left and not self._waiting:
            self._left -= 1
            return
        if len(self._waiting) >= self._waiting_max:
            raise Refused(Problem.OVERLOADED)
        share = loop.create_future()
        self._waiting.append(share)
        await share

    def _next_turn(self) -> None:
        """Give shares to those who wait; go on as long as any are taken."""
        self._left = self._each_turn
        while self._left and self._waiting:
            share = self._waiting.popleft()
            if not share.done():  # its client may have left
                share.set_result(None)
                self._left -= 1
        if self._left < self._each_turn:
            asyncio.get_running_loop().call_soon(self._next_turn)
