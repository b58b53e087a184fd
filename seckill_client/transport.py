"""The connection to a gateway: one call, a call that is repeated, and a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from yarl import URL

from seckill_client.answers import ServerAnswer
from seckill_client.errors import ComeBackLater, OutcomeUnknown, error_of
from seckill_client.retries import wait_s

#: A stream that is silent for so long is dead: the gateway sends a heartbeat each 15 s.
SILENT_S = 45.0


@dataclass(frozen=True, slots=True)
class ApiCall:
    """A call. All calls of a buyer may be repeated: the same one again finds the same outcome."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """A good answer, and when the call was sent and answered, by the monotonic clock."""

    answer: ServerAnswer
    sent_s: float
    received_s: float


class ApiTransport:
    """Sends calls to one gateway, over the connections of one session."""

    def __init__(self, base_url: str, *, timeout_s: float, patience_s: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout = ClientTimeout(total=timeout_s)
        self._stream_timeout = ClientTimeout(sock_connect=timeout_s, sock_read=SILENT_S)
        self.patience_s = patience_s
        self._session: ClientSession | None = None

    async def open(self) -> None:
        """Make the session."""
        self._session = ClientSession(headers={"User-Agent": "seckill-client (Python)"})

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, call: ApiCall) -> TimedAnswer:
        """Ask once; raise SeckillClientError unless it did what was asked."""
        sent_s = time.monotonic()
        try:
            async with self._begin(call, self._timeout) as response:
                text = await response.text(errors="replace")
                answer = ServerAnswer.read(response.status, text, response.headers)
        except (ClientError, TimeoutError) as error:
            raise _unanswered(call, error) from error
        if not answer.is_good:
            raise error_of(str(call), answer)
        return TimedAnswer(answer, sent_s, time.monotonic())

    async def insist(self, call: ApiCall) -> TimedAnswer:
        """Ask, and repeat it while the outcome is unknown or the answer is to come back later.

        Raise the last error once the next try would begin after the client's patience has ended.
        """
        deadline, tried = time.monotonic() + self.patience_s, 0
        while True:
            try:
                return await self.ask(call)
            except (OutcomeUnknown, ComeBackLater) as error:
                tried += 1
                pause_s = wait_s(tried, error.retry_after_s)
                if time.monotonic() + pause_s > deadline:
                    raise
            await asyncio.sleep(pause_s)

    async def lines(self, call: ApiCall) -> AsyncGenerator[str, None]:
        """Yield the lines of a stream as they come; none if the server has nothing more to say.

        Raise SeckillClientError if the stream does not open, or breaks.
        """
        try:
            async with self._begin(call, self._stream_timeout) as response:
                if response.status == 204:
                    return
                if response.status != 200:
                    text = await response.text(errors="replace")
                    answer = ServerAnswer.read(response.status, text, response.headers)
                    raise error_of(str(call), answer)
                async for line in response.content:
                    yield line.decode(errors="replace").rstrip("\r\n")
        except (ClientError, TimeoutError) as error:
            raise _unanswered(call, error) from error

    def _begin(
        self, call: ApiCall, timeout: ClientTimeout
    ) -> AbstractAsyncContextManager[ClientResponse]:
        if self._session is None:
            raise RuntimeError("use the client inside `async with`")
        # A redirect of a POST would come back as a GET: it is an answer that is not good.
        return self._session.request(
            call.method,
            URL(self._base_url + call.path, encoded=True),
            headers=call.headers,
            json=call.body,
            timeout=timeout,
            allow_redirects=False,
        )


def part(of_path: str) -> str:
    """Return an id as a part of a path."""
    return quote(of_path, safe="")


def _unanswered(call: ApiCall, error: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(str(call), ServerAnswer(), str(error) or type(error).__name__)
