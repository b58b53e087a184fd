"""One attempt to deliver: a signed POST, and what the endpoint made of it.

Bounded in every direction: one time limit for the whole, no redirect is followed, and of the answer
only the first bytes are read, never decompressed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version

import aiohttp
from yarl import URL

from seckill.webhooks.addresses import guarded_sockets
from seckill.webhooks.endpoints import WebhookEndpoint
from seckill.webhooks.signing import signed_headers

#: Of the answer's text: enough for an error message in the list of deliveries.
WORDS_MAX = 512
#: An endpoint that has given its status may take so long to send the text.
TEXT_S = 1.0
#: For the connection: a host that is there accepts within a round trip.
CONNECT_S = 5.0
#: The status that says that the endpoint is gone for good.
GONE = 410


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """What came of an attempt."""

    #: None if no answer came.
    status: int | None
    #: The beginning of the answer, or why there was none; printable, in one line.
    words: str
    #: The endpoint asked for no request earlier than this.
    retry_after_s: float | None = None

    @property
    def is_taken(self) -> bool:
        """Return whether the endpoint has the event now."""
        return self.status is not None and 200 <= self.status < 300


class WebhookSender:
    """Sends requests to endpoints. Connections are kept, and never shared with other clients."""

    def __init__(self, sessions: dict[str, aiohttp.ClientSession]) -> None:
        #: By scheme: plain http goes to private addresses alone.
        self._sessions = sessions

    @classmethod
    @asynccontextmanager
    async def open(cls, *, timeout_s: float, private_allowed: bool) -> AsyncIterator[WebhookSender]:
        """Open the sender; see `addresses` for where it sends to."""
        async with AsyncExitStack() as stack:
            sessions = {}
            for scheme in ("https", "http"):
                session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        limit=0,  # the role bounds the requests under way, by endpoint
                        socket_factory=guarded_sockets(
                            private_allowed=private_allowed, is_http=scheme == "http"
                        ),
                    ),
                    timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    read_bufsize=4096,
                    headers={"User-Agent": f"seckill-gateway/{version('seckill-gateway')}"},
                )
                sessions[scheme] = await stack.enter_async_context(session)
            yield cls(sessions)

    async def send(self, endpoint: WebhookEndpoint, message_id: str, body: bytes) -> EndpointAnswer:
        """Send a message once, signed by the endpoint's secrets."""
        headers = {
            "Content-Type": "application/json",
            **signed_headers(message_id, body, endpoint.secrets, now_s=int(time.time())),
        }
        url = URL(endpoint.url)
        try:
            async with self._sessions[url.scheme].post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                after_s = _retry_after_s(response.headers.get("Retry-After", ""))
                words = await _words(response)
                if to := response.headers.get("Location"):
                    words = _printable(f"redirects are not followed: {to}")
                return EndpointAnswer(response.status, words, after_s)
        except TimeoutError:
            return EndpointAnswer(None, "no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return EndpointAnswer(None, _printable(str(error) or type(error).__name__))


async def _words(response: aiohttp.ClientResponse) -> str:
    """Return the beginning of the text; a text that is cut off or late does not matter."""
    text = b""
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(TEXT_S):
            # To the end, if it is short: then the connection can be used again.
            while len(text) < WORDS_MAX and (more := await response.content.read(WORDS_MAX)):
                text += more
    return _printable(text.decode(errors="replace"))


def _printable(text: str) -> str:
    """Return text in one line that is safe on a terminal and in PostgreSQL."""
    clean = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(clean.split())[:WORDS_MAX]


def _retry_after_s(value: str) -> float | None:
    """Return the seconds that a header asks for, in either of its forms; None for nonsense."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # a year or a zone of many digits is the latter
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)
