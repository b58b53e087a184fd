"""Publishing to RabbitMQ so that "done" means: the broker has it on disk, in a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractRobustConnection
from aio_pika.exceptions import AMQPError

from seckill import topology
from seckill.errors import Unavailable

#: What the library raises when the link or the broker fails. A failed publish may have arrived.
LINK_ERRORS = (AMQPError, OSError, TimeoutError, RuntimeError)


@contextmanager
def link_errors_as_unavailable(doing: str) -> Iterator[None]:
    """Turn every failure of the link into Unavailable: whether the broker did it is unknown."""
    try:
        yield
    except LINK_ERRORS as error:
        raise Unavailable(f"RabbitMQ: {doing} failed: {error!r}") from error
    except asyncio.CancelledError as error:
        # A link that got stuck makes the library raise this although nobody cancelled us. It would
        # pass every `except Exception` and end its task in silence.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable(f"RabbitMQ: the link broke during {doing}") from error


@asynccontextmanager
async def connect(
    url: str, *, name: str, timeout_s: float
) -> AsyncIterator[AbstractRobustConnection]:
    """Open a connection that comes back by itself, each second; Unavailable if it never came up.

    Publishing and consuming use one each: a memory or disk alarm of RabbitMQ stops reading from
    connections that publish, and must not stop acks.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | {
        "heartbeat": "10",
        "reconnect_interval": "1",
        "name": name,
    }
    full = urlunsplit(parts._replace(query=urlencode(query)))
    try:
        connection = await aio_pika.connect_robust(full, timeout=timeout_s)
    except LINK_ERRORS as error:
        raise Unavailable(
            f"RabbitMQ at {parts.hostname}:{parts.port} does not answer: {error}"
        ) from error
    try:
        yield connection
    finally:
        await connection.close()


class Publisher:
    """Publishes with confirms on a channel of its own."""

    def __init__(
        self, channel: AbstractChannel, exchange: AbstractExchange, timeout_s: float
    ) -> None:
        self._channel = channel
        self._exchange = exchange
        self._timeout_s = timeout_s
        self._timers: set[int] = set()

    @classmethod
    async def open(cls, connection: AbstractRobustConnection, *, timeout_s: float) -> Publisher:
        """Open the channel and declare the topology; an unroutable message is an error."""
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        return cls(channel, (await topology.declare(channel)).exchange, timeout_s)

    async def publish(
        self, queue: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Return when the broker has confirmed; raise Unavailable when that is not known.

        Failed does not mean undelivered: every consumer takes a second copy for the first one.
        """
        message = aio_pika.Message(
            body,
            content_type="application/msgpack",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            headers=dict(headers or {}),
        )
        with link_errors_as_unavailable(f"publishing to {queue}"):
            await self._exchange.publish(message, queue, timeout=self._timeout_s)

    async def publish_timer(self, window_s: int, body: bytes) -> None:
        """Publish to the timer queue of a window, declaring it once per channel."""
        if window_s not in self._timers:
            try:
                await topology.declare_timer(self._channel, self._exchange, window_s)
            except LINK_ERRORS as error:
                raise Unavailable(
                    f"timer queue for {window_s} s not declared: {error!r}"
                ) from error
            self._timers.add(window_s)
        await self.publish(topology.timer(window_s), body)
