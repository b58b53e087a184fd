"""A client of the console, as its page is one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientTimeout, CookieJar

PATIENCE = ClientTimeout(total=60)


class ConsoleClient:
    """One who is signed in."""

    def __init__(self, http: ClientSession, session: dict[str, Any]) -> None:
        self.http, self.session = http, session

    @property
    def proof(self) -> dict[str, str]:
        """The header of a change."""
        return {"X-CSRF-Token": self.session["csrf_token"]}

    async def change(self, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Change something; return the status and the answer."""
        async with self.http.post(
            f"/console/api{path}", json=body or {}, headers=self.proof
        ) as response:
            return response.status, await response.json(content_type=None)

    async def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Follow the snapshots until the state fulfils a condition; return the state."""
        state: dict[str, Any] = {"rows": {}}
        async for event in self.events():
            rows = {row["id"]: row for row in event.pop("rows")}
            state = {**state, **event, "rows": {**state["rows"], **rows}}
            if holds(state):
                return state
        raise AssertionError("the stream ended")

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each snapshot as it comes."""
        async with self.http.get("/console/events") as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))


@asynccontextmanager
async def signed_in(admin_url: str, token: str, name: str = "anna") -> AsyncIterator[ConsoleClient]:
    """Sign in at a gateway."""
    jar = CookieJar(unsafe=True)  # takes cookies of an address
    async with (
        ClientSession(admin_url, cookie_jar=jar, timeout=PATIENCE, read_bufsize=2**20) as http,
        http.post("/console/session", json={"token": token, "name": name}) as response,
    ):
        assert response.status == 200, await response.text()
        yield ConsoleClient(http, await response.json())
