"""Watches an order: by its stream, and by polling while there is none."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from seckill_client.errors import ComeBackLater, OutcomeUnknown
from seckill_client.events import EventReader
from seckill_client.retries import spread_s
from seckill_client.transport import ApiCall, ApiTransport
from seckill_client.views import OrderInfo

#: Between two polls of an order that changes by its buyer only: it can still expire.
POLL_S = 5.0
#: A gateway that had no room for a stream, or a proxy that passes none, is asked again so late.
STREAM_AGAIN_S = 30.0


class OrderWatch:
    """Follows one order until it is final."""

    def __init__(
        self, transport: ApiTransport, stream: ApiCall, read: Callable[[], Awaitable[OrderInfo]]
    ) -> None:
        self._transport = transport
        self._stream = stream
        self._read = read
        self._seen = ""
        self._events = EventReader()

    async def changes(self) -> AsyncGenerator[OrderInfo, None]:
        """Yield the order as it is, and then after each change."""
        again_at_s = 0.0
        while True:
            opened = False
            if time.monotonic() >= again_at_s:
                async with aclosing(self._streamed()) as orders:
                    async for order in orders:
                        yield order
                        if order.is_final:
                            return
                opened = self._events.retry_s is not None  # the first that a gateway sends
                again_at_s = time.monotonic() + (0 if opened else STREAM_AGAIN_S)
            # The stream has ended, or did not open: look for what it has not told.
            order = await self._read()
            if self._is_new(order):
                yield order
            if order.is_final:
                return
            await asyncio.sleep(self._pause_s(order, opened))

    async def _streamed(self) -> AsyncGenerator[OrderInfo, None]:
        """Yield what the stream tells, until it ends, breaks, or is refused for now."""
        headers = {**self._stream.headers, "Accept": "text/event-stream"}
        if self._seen:
            headers["Last-Event-ID"] = self._seen
        self._events = EventReader()
        try:
            lines = self._transport.lines(replace(self._stream, headers=headers))
            async with aclosing(lines):
                async for line in lines:
                    event = self._events.feed(line)
                    if event is not None and event.event == "order":
                        order = OrderInfo.read(json.loads(event.data))
                        if self._is_new(order):
                            yield order
        except (OutcomeUnknown, ComeBackLater, KeyError, TypeError, ValueError):
            return

    def _is_new(self, order: OrderInfo) -> bool:
        """Note an order's status; return whether it is another one than before."""
        is_new, self._seen = order.status != self._seen, order.status
        return is_new

    def _pause_s(self, order: OrderInfo, opened: bool) -> float:
        if opened and self._events.retry_s is not None:
            return self._events.retry_s  # the gateway spreads its clients itself
        if order.next_poll_ms is not None:
            return order.next_poll_ms / 1000
        return POLL_S / 2 + spread_s(POLL_S / 2)
