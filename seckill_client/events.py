"""Server-sent events, line by line. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event: its kind, and its data as text."""

    event: str
    data: str


class EventReader:
    """Makes events of the lines of a stream. Ids are not kept: an order's is its status."""

    def __init__(self) -> None:
        #: How long the server wants a client to stay away from a stream that has ended.
        self.retry_s: float | None = None
        self._event = ""
        self._data: list[str] = []

    def feed(self, line: str) -> StreamEvent | None:
        """Take a line without its end; return the event that it completes."""
        if not line:
            event, data = self._event or "message", self._data
            self._event, self._data = "", []
            return StreamEvent(event, "\n".join(data)) if data else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "retry" and value.isdecimal():
            self.retry_s = int(value) / 1000
        return None
