"""Links to RabbitMQ that are opened again after they broke, and publishing with confirms.

The library's own "robust" connections are not used: after a crash of the broker some of them came
back without their consumer. Here a link is a plain connection. It ends with its first error, and
the next caller opens a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, DeliveryError
from yarl import URL

from seckill.adapters import topology
from seckill.adapters.topology import Topology
from seckill.errors import Unavailable

Headers = Mapping[str, str | int]

#: What the library raises when the link or the broker fails. A failed publish may have arrived.
LINK_ERRORS = (AMQPError, OSError, TimeoutError, RuntimeError)
#: A link without a sign of life for twice this long is broken.
HEARTBEAT_S = 10
#: A broker that hangs does not answer a close either.
CLOSE_S = 2.0


@contextmanager
def link_errors_as_unavailable(doing: str) -> Iterator[None]:
    """Raise Unavailable for every failure of the link: whether the broker acted is unknown."""
    try:
        yield
    except LINK_ERRORS as error:
        raise Unavailable(f"RabbitMQ: {doing} failed: {error!r}") from error
    except Exception as error:
        # The library raises a bare Exception for publishes under way on a link that closes.
        if type(error) is not Exception:
            raise
        raise Unavailable(f"RabbitMQ: the link was closed during {doing}") from error
    except asyncio.CancelledError as error:
        # A link that got stuck makes the library raise this although the task was not cancelled.
        # It would pass every `except Exception` and end its task in silence.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable(f"RabbitMQ: the link broke during {doing}") from error


@asynccontextmanager
async def link_call(doing: str, timeout_s: float) -> AsyncIterator[None]:
    """Limit the time of a call; raise Unavailable for every failure of the link."""
    with link_errors_as_unavailable(doing):
        async with asyncio.timeout(timeout_s):
            yield


@dataclass(frozen=True, slots=True)
class Broker:
    """Where RabbitMQ is, and the name of this process in RabbitMQ's lists.

    Publishing and consuming use a link each: a memory or disk alarm of RabbitMQ stops reading
    from connections that publish, and must not stop acks.
    """

    url: str
    name: str
    timeout_s: float

    async def connect(self) -> AbstractConnection:
        """Open a plain connection, or raise Unavailable."""
        parts = urlsplit(self.url)
        query = dict(parse_qsl(parts.query)) | {"heartbeat": str(HEARTBEAT_S), "name": self.name}
        url = urlunsplit(parts._replace(query=urlencode(query)))
        connection = aio_pika.Connection(URL(url))
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()
        except BaseException as error:
            await _close(connection)
            if not isinstance(error, LINK_ERRORS):
                raise
            raise Unavailable(
                f"RabbitMQ at {parts.hostname}:{parts.port} does not answer: {error}"
            ) from error
        return connection

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """Open a connection with one channel; close both in the end."""
        connection = await self.connect()
        try:
            async with link_call("opening a channel", self.timeout_s):
                channel = await connection.channel()
            yield channel
        finally:
            await _close(connection)


@dataclass(frozen=True, slots=True)
class _Link:
    connection: AbstractConnection
    channel: AbstractChannel
    topology: Topology
    #: Payment windows whose timer queues this link has declared.
    timers: set[int]


class Publisher:
    """Publishes so that "done" means: the broker has the message on disk, in a queue."""

    def __init__(self, broker: Broker, *, timeout_s: float) -> None:
        self._broker = broker
        self._timeout_s = timeout_s
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, broker: Broker, *, timeout_s: float) -> AsyncIterator[Publisher]:
        """Open the link and declare the topology; raise Unavailable if that fails."""
        publisher = cls(broker, timeout_s=timeout_s)
        await publisher._open()
        try:
            yield publisher
        finally:
            if publisher._opening is not None:
                publisher._opening.cancel()
                await asyncio.wait({publisher._opening})
            publisher._drop()
            if publisher._closing:
                await asyncio.wait(publisher._closing)

    async def publish(self, queue: str, body: bytes, headers: Headers | None = None) -> None:
        """Return when the broker has confirmed; raise Unavailable if that is not known.

        Failed does not mean undelivered: every consumer treats a second copy like the first one.
        """
        async with self._working(f"publishing to {queue}", self._timeout_s) as link:
            await link.topology.exchange.publish(_message(body, headers), queue)

    async def publish_later(
        self,
        retry_delay_s: int,
        wait_s: float,
        queue: str,
        message: AbstractIncomingMessage,
        headers: Headers,
    ) -> None:
        """Publish a copy of a message to a retry queue; `publish` says what done means.

        It returns to `queue` after `wait_s`, at most `retry_delay_s`, with only these headers.
        """
        doing = f"publishing to {topology.retry(retry_delay_s)}"
        async with self._working(doing, self._timeout_s) as link:
            copy = _message(message.body, headers, sent_at=message.timestamp, expiration=wait_s)
            await link.topology.retry_exchanges[retry_delay_s].publish(copy, queue)

    async def publish_timer(self, window_s: int, body: bytes) -> None:
        """Publish to the timer queue of a window, which each link declares once."""
        # To make a quorum queue takes longer than a confirm, like opening a link.
        declaring = f"declaring the timer queue of {window_s} s"
        async with self._working(declaring, self._broker.timeout_s) as link:
            if window_s not in link.timers:
                await topology.declare_timer(link.channel, link.topology.exchange, window_s)
                link.timers.add(window_s)
        await self.publish(topology.timer(window_s), body)

    async def publish_event(self, topic: str, body: bytes, event_id: str) -> None:
        """Publish an event, which may have no listener; `publish` says what done means."""
        async with self._working(f"publishing {topic}", self._timeout_s) as link:
            event = aio_pika.Message(
                body,
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=event_id,
                timestamp=datetime.now(UTC),
            )
            await link.topology.events.publish(event, topic, mandatory=False)

    @asynccontextmanager
    async def _working(self, doing: str, timeout_s: float) -> AsyncIterator[_Link]:
        """Lend the link for one operation within the time limit; drop it if that fails."""
        link: _Link | None = None
        try:
            async with link_call(doing, timeout_s):
                link = await self._open()
                yield link
        except Unavailable as error:
            # A refusal (a nack) concerns one message; others may be under way on a healthy link.
            # A returned message is different: its queue is gone, and a new link declares it again.
            refused = type(error.__cause__) is DeliveryError
            if link is not None and link is self._link and not refused:
                self._drop()
            raise

    async def _open(self) -> _Link:
        """Return the link; open it if there is none.

        Opening has the broker's time limit. It goes on when a caller's time is up, and serves the
        next caller. Otherwise a broker that opens links more slowly than it confirms could never
        be reached again.
        """
        if self._link is not None and not self._link.channel.is_closed:
            return self._link
        self._drop()
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect(), name="open link")
            # Read here in case every caller has left; the next caller gets an error of its own.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._opening)

    async def _connect(self) -> _Link:
        connection = await self._broker.connect()
        try:
            async with link_call("declaring the topology", self._broker.timeout_s):
                # An unroutable message is an error: it would be lost.
                channel = await connection.channel(on_return_raises=True)
                declared = await topology.declare(channel)
        except BaseException:
            self._close_later(connection)
            raise
        self._link = _Link(connection, channel, declared, set())
        return self._link

    def _drop(self) -> None:
        if self._link is not None:
            self._close_later(self._link.connection)
            self._link = None

    def _close_later(self, connection: AbstractConnection) -> None:
        task = asyncio.create_task(_close(connection), name="close link")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def count_waiting(broker: Broker, *queues: str) -> int:
    """Count the messages of queues that no consumer holds; raise Unavailable if that fails."""
    async with broker.channel() as channel, link_call("counting messages", broker.timeout_s):
        declared = (await topology.declare(channel)).queues
    return sum(declared[queue].declaration_result.message_count or 0 for queue in queues)


def _message(
    body: bytes,
    headers: Headers | None,
    *,
    sent_at: datetime | None = None,
    expiration: float | None = None,
) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        content_type="application/msgpack",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers=dict(headers or {}),
        timestamp=sent_at or datetime.now(UTC),
        expiration=expiration,
    )


async def _close(connection: AbstractConnection) -> None:
    """Close a link that is given up; whatever goes wrong with it does not matter any more."""
    with suppress(Unavailable):
        async with link_call("closing", CLOSE_S):
            await connection.close()
    # This sends nothing: it marks as closed a link that broke before or during the close.
    await connection.close()
