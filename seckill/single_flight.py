"""One reading for all callers that wait for it, and a least time between two readings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from seckill.errors import Unavailable

R = TypeVar("R")


class SingleFlight(Generic[R]):
    """Read at most once each `interval_s`, however many callers ask.

    A failure is shared like a success. If each caller tried again alone, a store that hangs would
    make the callers wait for one time limit after the other.
    """

    def __init__(self, read: Callable[[], Awaitable[R]], *, interval_s: float) -> None:
        self._read = read
        self._interval_s = interval_s
        self._begun_at = float("-inf")
        self._outcome: R | Unavailable = Unavailable("nothing has been read yet")
        self._lock = asyncio.Lock()

    async def now(self, is_answered: Callable[[], bool] = lambda: False) -> R:
        """Return a reading that began after this call, or one by which the caller is answered.

        A caller who comes while a reading is in flight is asked when that has ended: what they look
        for may be in it, and the next reading is `interval_s` away.
        """
        return await self._since(time.monotonic(), is_answered)

    async def recent(self) -> R:
        """Return a reading that began at most `interval_s` ago."""
        return await self._since(time.monotonic() - self._interval_s, lambda: False)

    async def _since(self, moment: float, is_answered: Callable[[], bool]) -> R:
        if self._begun_at < moment:
            async with self._lock:
                # Another caller may have read meanwhile.
                if self._begun_at < moment and not is_answered():
                    await asyncio.sleep(self._begun_at + self._interval_s - time.monotonic())
                    begun_at = time.monotonic()
                    try:
                        self._outcome = await self._read()
                    except Unavailable as error:
                        self._outcome = error
                    self._begun_at = begun_at
        if isinstance(self._outcome, Unavailable):
            raise self._outcome.again()
        return self._outcome
