"""Calls to other services over HTTP. Any answer is a value; no answer raises Unavailable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from seckill.errors import Unavailable
from seckill.spans import TRACEPARENT, SpanKind, current, span_of

#: No answer that we ask for is longer; a service that sends more is broken.
REPLY_MAX_BYTES = 64 * 1024


class Reply(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})


class HttpClient:
    """A pool of connections to other services, with one time limit for a whole call."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, timeout_s: float, connections_max: int = 100
    ) -> AsyncIterator[HttpClient]:
        """Open the pool; calls beyond `connections_max` at once wait for a connection."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections_max),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as session:
            yield cls(session)

    async def get(self, url: str, headers: Mapping[str, str] = MappingProxyType({})) -> Reply:
        """Send a GET; raise Unavailable if no whole answer came."""
        return await self._call("GET", url, None, headers)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send JSON (or what Content-Type says) by POST; raise Unavailable if no answer came."""
        return await self._call("POST", url, body, {"Content-Type": "application/json", **headers})

    async def _call(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        attributes: dict[str, str | int | float | bool] = {}
        with span_of(current(), method, kind=SpanKind.CLIENT, attributes=attributes) as context:
            if context is not None:
                headers = {**headers, TRACEPARENT: context.traceparent}
                address = urlsplit(url)
                attributes["http.request.method"] = method
                attributes["server.address"] = address.hostname or ""
                attributes["url.path"] = address.path
            reply = await self._request(method, url, body, headers)
            attributes["http.response.status_code"] = reply.status
            return reply

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                text = b""
                async for chunk in response.content.iter_any():
                    text += chunk
                    if len(text) > REPLY_MAX_BYTES:
                        break  # do not wait for the rest: leaving the block closes the connection
                return Reply(response.status, text[:REPLY_MAX_BYTES], response.headers)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{url} does not answer: {error or type(error).__name__}") from error
