"""A TCP proxy that breaks links on purpose, for drills and tests."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Proxy:
    """Forwards to `host:port`; it can refuse, freeze, lose replies or cut links."""

    def __init__(self, host: str, port: int, *, at: str = "127.0.0.1") -> None:
        self._at = at
        #: Where new links lead.
        self.target = (host, port)
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._forward = asyncio.Event()
        self._forward.set()
        #: Drop what the server sends, and deliver what the client sends.
        self.lose_replies = False
        #: Reset each new link at once; `refused` counts them.
        self.refuses, self.refused = False, 0
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, self._at, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        self._forward.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Keep all bytes from now on, in both directions."""
        self._forward.clear()

    def thaw(self) -> None:
        """Forward what was kept, and all that follows."""
        self._forward.set()

    def cut(self) -> None:
        """Reset every link."""
        for writer in self._links:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            self.refused += 1
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self.target)
        except OSError:  # who dials it sees the same: no server there
            writer.transport.abort()
            return
        self._links |= {writer, upstream}
        for source, sink, is_reply in (
            (reader, upstream, False),
            (upstream_reader, writer, True),
        ):
            task = asyncio.create_task(self._pump(source, sink, is_reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_reply: bool
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await self._forward.wait()
                if not (is_reply and self.lose_replies):
                    sink.write(data)
                    await sink.drain()
        sink.close()
        self._links.discard(sink)
