"""Publishing with confirms, over a link that is opened again after it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import DeliveryError

from seckill.adapters import topology
from seckill.adapters.failures import RABBITMQ
from seckill.adapters.rabbitmq import Broker, close_link, link_call
from seckill.adapters.topology import Topology
from seckill.errors import Unavailable
from seckill.outages import OUTAGES

Headers = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class _Link:
    connection: aio_pika.Connection
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
    async def open(
        cls, broker: Broker, *, timeout_s: float, at_once: bool = True
    ) -> AsyncIterator[Publisher]:
        """Open the link and declare the topology; raise Unavailable if that fails.

        Without `at_once` the broker may be unavailable until something is published.
        """
        publisher = cls(broker, timeout_s=timeout_s)
        try:
            with nullcontext() if at_once else suppress(Unavailable):
                await publisher._open()
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

    async def check(self) -> None:
        """Publish a message that reaches no queue; return when the broker has confirmed it.

        Raise Unavailable if it does not, or if an alarm keeps it from reading what is published. A
        broker says so only to a link that publishes, so no cheaper question would show it.
        """
        is_blocked = False
        async with self._working("a publish on trial", self._timeout_s) as link:
            try:
                # Less than the time limit of the whole, which would drop a link that is blocked.
                async with asyncio.timeout(self._timeout_s / 2):
                    exchange, message = link.topology.exchange, _message(b"", None)
                    await exchange.publish(message, topology.NO_QUEUE, mandatory=False)
            except TimeoutError:
                if not await _is_blocked(link.connection):
                    raise
                is_blocked = True
        if is_blocked:
            raise Unavailable(
                "RabbitMQ blocks what is published: it has an alarm (memory or disk)",
                store=RABBITMQ,
                code="blocked",
            )

    @asynccontextmanager
    async def _working(self, doing: str, timeout_s: float) -> AsyncIterator[_Link]:
        """Lend the link for one operation within the time limit; drop it if that fails."""
        link: _Link | None = None
        try:
            async with link_call(doing, timeout_s):
                link = await self._open()
                yield link
            OUTAGES.worked(RABBITMQ)
        except Unavailable as error:
            OUTAGES.failed(error)
            # A refusal (a nack) concerns one message; others may be under way on a healthy link.
            # A returned message is different: its queue is gone, and a new link declares it again.
            refused = type(error.__cause__) is DeliveryError
            if link is not None and link is self._link and not refused:
                if isinstance(error.__cause__, TimeoutError):
                    self._broker.avoid(link.connection)
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
        task = asyncio.create_task(close_link(connection), name="close link")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _is_blocked(connection: AbstractConnection) -> bool:
    """Return whether the broker has said that it reads nothing more from this link."""
    if connection.transport is None:
        return False
    try:
        async with asyncio.timeout(0):  # a link that is not blocked is ready without a wait
            await connection.transport.connection.ready()
    except TimeoutError:
        return True
    return False


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
