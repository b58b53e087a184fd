"""An endpoint of a shop: it keeps what it gets, checks it as the documentation says, and answers
as a test wants.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

PAGE = Path(__file__).resolve().parents[1] / "docs" / "webhooks.md"


def sample(language: str) -> str:
    """Return the code of the documentation in a language."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


def documented_check() -> Callable[[str, Mapping[str, str], bytes], bool]:
    """Return the check of signatures that the documentation tells shops to use."""
    scope: dict[str, Any] = {}
    exec(sample("python"), scope)  # noqa: S102 - our own page
    return scope["is_ours"]


@dataclass(frozen=True, slots=True)
class Received:
    """A request."""

    headers: Mapping[str, str]
    raw: bytes

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.raw)


class Receiver:
    """A server on a free port; use it as a context."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        #: The next answers; afterwards 200.
        self.answers: list[web.StreamResponse] = []
        #: Called instead, if there is one.
        self.handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self._hanging: list[asyncio.Event] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def __aenter__(self) -> Receiver:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        for go_on in self._hanging:
            go_on.set()
        await self._runner.cleanup()

    @property
    def ids(self) -> list[str]:
        return [each.message_id for each in self.requests]

    def hang(self) -> asyncio.Event:
        """Answer nothing until the event is set that this returns."""
        go_on = asyncio.Event()
        self._hanging.append(go_on)

        async def wait(_: web.Request) -> web.Response:
            await go_on.wait()
            return web.Response()

        self.handler = wait
        return go_on

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(Received(request.headers.copy(), await request.read()))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.handler:
                return await self.handler(request)
            return self.answers.pop(0) if self.answers else web.Response(text="thanks")
        finally:
            self.in_flight -= 1
