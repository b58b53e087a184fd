"""Reading server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, ClientSession

#: A heartbeat, as `EventStream.next` returns it.
HEARTBEAT = "heartbeat"


class EventStream:
    """One open stream. `next()` is the next order, HEARTBEAT, or None when the stream has ended."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response
        self.ids: list[str] = []
        self.retry_ms = 0

    async def next(self) -> Any:
        async with asyncio.timeout(60):
            return await self._next()

    async def next_order(self) -> Any:
        """The next order, whatever the number of heartbeats before it."""
        while (event := await self.next()) == HEARTBEAT:
            pass
        return event

    async def _next(self) -> Any:
        block: dict[str, str] = {}
        while line := (await self.response.content.readline()).decode():
            if line != "\n":
                name, _, value = line.rstrip("\n").partition(":")
                block[name] = value.removeprefix(" ")
            elif "retry" in block:
                self.retry_ms = int(block.pop("retry"))
            elif "" in block:
                return HEARTBEAT
            else:
                order = json.loads(block["data"])
                assert block["event"] == "order"
                assert block["id"] == order["status"]
                self.ids.append(block["id"])
                return order
        return None


@asynccontextmanager
async def event_stream(
    http: ClientSession, order_id: str, headers: dict[str, str], *, last_event_id: str = ""
) -> AsyncIterator[EventStream]:
    """Open the stream of an order; the session must have a connection to spare."""
    if last_event_id:
        headers = {**headers, "Last-Event-ID": last_event_id}
    async with http.get(f"/v1/orders/{order_id}/events", headers=headers) as response:
        assert response.status == 200, await response.text()
        yield EventStream(response)
