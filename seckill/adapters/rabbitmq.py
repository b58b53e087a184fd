"""Links to RabbitMQ, and what its errors mean.

The library's own "robust" connections are not used: after a crash of the broker some of them came
back without their consumer. Here a link is a plain connection. It ends with its first error, and
the next caller opens a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError
from pamqp import commands
from yarl import URL

from config.addresses import Host
from seckill.adapters import marks, topology
from seckill.adapters.amqp_properties import tolerate_unreadable_properties
from seckill.adapters.failures import RABBITMQ, store_failure, words
from seckill.adapters.hosts import Hosts
from seckill.errors import FailureKind, Unavailable, WrongQueue

# The library takes only OpenOk for an answer to Open: without this line the broker's reason for a
# refusal (the vhost is missing, too many connections) is lost.
commands.Connection.Open.valid_responses = ["Connection.OpenOk", "Connection.Close"]

#: What the library raises when the link or the broker fails. A failed publish may have arrived.
#: StopAsyncIteration is a link that ends before the broker has said a word, as behind a balancer.
LINK_ERRORS = (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration)
#: A link without a sign of life for twice this long is broken: a consumer of a node that froze has
#: to go to another one. A process that stands still for as long gets its messages once more.
HEARTBEAT_S = 5
#: A broker that hangs does not answer a close either.
CLOSE_S = 2.0


@contextmanager
def link_errors_as_unavailable(doing: str) -> Iterator[None]:
    """Raise Unavailable for every failure of the link: whether the broker acted is unknown."""
    try:
        yield
    except WrongQueue as error:
        error.store, error.kind, error.code = RABBITMQ, FailureKind.CONFIGURATION, "406"
        raise
    except LINK_ERRORS as error:
        judged = store_failure(error, RABBITMQ) or Unavailable()
        raise _failed(f"{doing} failed: {words(error)}", judged) from error
    except Exception as error:
        # The library raises a bare Exception for publishes under way on a link that closes.
        if type(error) is not Exception:
            raise
        raise _failed(f"the link was closed during {doing}") from error
    except asyncio.CancelledError as error:
        # A link that got stuck makes the library raise this although the task was not cancelled.
        # It would pass every `except Exception` and end its task in silence.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _failed(f"the link broke during {doing}") from error


def _failed(text: str, judged: Unavailable | None = None) -> Unavailable:
    """Return a failure, of the same kind as one that was judged."""
    failure = Unavailable(f"RabbitMQ: {text}", store=RABBITMQ)
    if judged is not None:
        failure.kind, failure.code = judged.kind, judged.code
    return failure


@asynccontextmanager
async def link_call(doing: str, timeout_s: float) -> AsyncIterator[None]:
    """Limit the time of a call; raise Unavailable for every failure of the link."""
    with link_errors_as_unavailable(doing):
        async with asyncio.timeout(timeout_s):
            yield


@dataclass(slots=True)
class Broker:
    """Where RabbitMQ is, and the name of this process in RabbitMQ's lists.

    Publishing and consuming use a link each: a memory or disk alarm of RabbitMQ stops reading
    from connections that publish, and must not stop acks.
    """

    url: str
    name: str
    timeout_s: float
    #: The installation whose broker this has to be; empty: any.
    installation_id: str = ""
    #: Whether a broker without a mark becomes this installation's.
    claims: bool = True
    _hosts: Hosts = field(init=False)

    def __post_init__(self) -> None:
        self._hosts = Hosts(self.url, RABBITMQ)

    async def connect(self) -> aio_pika.Connection:
        """Open a plain connection to the first host that answers, or raise Unavailable."""
        return await self._hosts.first(self._connect)

    async def _connect(self, host: Host | None) -> aio_pika.Connection:
        tolerate_unreadable_properties()
        url = URL(self._hosts.address.url_of(host) if host else self.url)
        connection = aio_pika.Connection(
            url.update_query({"heartbeat": str(HEARTBEAT_S), "name": self.name})
        )
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()
                if self.installation_id:
                    await self._compare(connection)
        except BaseException as error:
            await close_link(connection)
            if not isinstance(error, LINK_ERRORS):
                raise
            failure = store_failure(error, RABBITMQ) or Unavailable(
                f"RabbitMQ does not answer: {words(error)}", store=RABBITMQ
            )
            raise failure from error
        return connection

    def avoid(self, connection: aio_pika.Connection) -> None:
        """Open the next links to other hosts than that of a link which confirms nothing.

        A node that was cut off from the others may take links, and cannot write.
        """
        where = connection.url
        self._hosts.try_last(Host(where.host or "", where.port or 0))

    async def _compare(self, connection: AbstractConnection) -> None:
        """Raise ForeignStore if the broker is another installation's; claim it if it has none."""
        channel = await connection.channel()
        if not self.claims and not await topology.is_claimed(channel):
            return
        theirs = await topology.claim(channel, self.installation_id)
        if theirs != self.installation_id:
            raise marks.foreign(RABBITMQ, theirs, self.installation_id)
        await channel.close()

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """Open a connection with one channel; close both in the end."""
        connection = await self.connect()
        try:
            async with link_call("opening a channel", self.timeout_s):
                channel = await connection.channel()
            yield channel
        finally:
            await close_link(connection)


async def count_waiting(broker: Broker, *queues: str) -> int:
    """Count the messages of queues that no consumer holds; raise Unavailable if that fails."""
    async with broker.channel() as channel, link_call("counting messages", broker.timeout_s):
        declared = (await topology.declare(channel)).queues
    return sum(declared[queue].declaration_result.message_count or 0 for queue in queues)


async def close_link(connection: AbstractConnection) -> None:
    """Close a link that is given up; whatever goes wrong with it does not matter any more."""
    with suppress(Unavailable):
        async with link_call("closing", CLOSE_S):
            await connection.close()
    # This sends nothing: it marks as closed a link that broke before or during the close.
    await connection.close()
