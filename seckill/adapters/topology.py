"""Every exchange and queue of RabbitMQ, declared here and nowhere else.

All queues are quorum queues: RabbitMQ writes a message to disk before it confirms it, and counts
deliveries. https://www.rabbitmq.com/docs/quorum-queues

The constants are the names that the project uses everywhere, and the routing keys. With a namespace
(`namespace.py`) the exchanges and queues themselves have longer names: `full_name` returns them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from seckill.adapters import namespace
from seckill.errors import WrongQueue

EXCHANGE = "seckill"
#: A routing key that no queue is bound by, for publishes on trial.
NO_QUEUE = "~trial"
ORDERS_PLACE = "orders.place"
ORDERS_EXPIRE = "orders.expire"
SAGA_STEPS = "saga.steps"
#: Topic exchange; the topics are in docs/events.md.
EVENTS = "seckill.events"
#: Exchange that nothing is published to: it says whose broker this is (`claim`).
INSTALLATION = "seckill.installation"
#: Queues that roles consume. Each has a dead queue.
WORK_QUEUES = (ORDERS_PLACE, ORDERS_EXPIRE, SAGA_STEPS)

#: The retry schedule: how long a message that failed waits before each new attempt. The delays fit
#: a moment, a hiccup, a restart and an outage; after that an operator has to look.
RETRY_DELAYS_S = (1, 5, 25, 125)

#: A message that killed its consumer this often is not delivered again. At least 20, because an
#: ordinary restart of the pool also counts as a delivery.
DELIVERY_LIMIT = 20
#: The first RabbitMQ that drops a message which was delivered 20 times, unless its queue says
#: otherwise. There -1 is no limit; before, it is a limit that the second delivery exceeds.
#: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
LIMITING_MAJOR = 4
#: Distinct payment windows, so distinct timer queues, that sales may use together.
TIMER_QUEUES_MAX = 16

# A dead-lettering queue would lose messages if the broker crashed during the transfer. With these
# two arguments it keeps a message until the target queue has confirmed it.
_AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def full_name(name: str) -> str:
    """Return the name in RabbitMQ of an exchange or a queue: it begins with the namespace."""
    return f"{namespace.rabbitmq_prefix}{name}"


def dead(queue: str) -> str:
    """Return the name of the dead queue of a queue; a dead queue is its own."""
    return queue if queue.endswith(".dead") else f"{queue}.dead"


def timer(window_s: int) -> str:
    """Return the name of the timer queue of a payment window in seconds.

    Each window has a queue of its own: RabbitMQ drops expired messages at the head only, so a
    short per-message TTL would wait behind a longer one.
    """
    return f"orders.timer.{window_s}s"


def retry(retry_delay_s: int) -> str:
    """Return the name of the retry queue of a delay; its exchange has the same name.

    Each retry queue has an exchange of its own, so that a message keeps its routing key. The
    routing key is the name of the queue to which the message returns.
    """
    return f"retry.{retry_delay_s}s"


#: The queues in which the message of a grab can wait.
GRAB_QUEUES = (ORDERS_PLACE, dead(ORDERS_PLACE), *map(retry, RETRY_DELAYS_S))


@dataclass(frozen=True, slots=True)
class Topology:
    """What `declare` has declared through one channel."""

    exchange: AbstractExchange
    events: AbstractExchange
    #: The work queues, their dead queues and the retry queues, by name.
    queues: dict[str, AbstractQueue]
    #: The exchanges of the retry queues, by delay in seconds.
    retry_exchanges: dict[int, AbstractExchange]
    #: Dead queues that an earlier RabbitMQ made, and that now drop messages unless a policy helps.
    limited: list[str]


async def claim(channel: AbstractChannel, installation_id: str) -> str:
    """Mark RabbitMQ as this installation's if it has no mark; return the id that it has.

    The mark is an exchange, because RabbitMQ makes and compares one in a single step, and because
    that needs no right that a queue does not need. Of an exchange's arguments RabbitMQ compares the
    alternate exchange alone, so its name holds the id. The channel is closed if the id is another.
    """
    alternate = full_name(f"{EXCHANGE}.")
    try:
        await channel.declare_exchange(
            full_name(INSTALLATION),
            "fanout",
            durable=True,
            internal=True,  # no client can publish to it
            arguments={"alternate-exchange": f"{alternate}{installation_id}"},
        )
    except ChannelPreconditionFailed as error:
        # "... received the value 'ours' of type 'longstr' but current is the value 'theirs' ...",
        # cut off after 255 bytes.
        found = re.search(rf"current is .*'{re.escape(alternate)}([^']+)", str(error))
        return found[1] if found else "of an unknown id"
    return installation_id


async def is_claimed(channel: AbstractChannel) -> bool:
    """Return whether RabbitMQ has a mark; if not, the channel is closed."""
    try:
        await channel.declare_exchange(full_name(INSTALLATION), passive=True)
    except ChannelNotFoundEntity:
        return False
    return True


async def declare(channel: AbstractChannel) -> Topology:
    """Declare the exchanges, the work queues with their dead queues, and the retry queues.

    Raise WrongQueue if one of them exists with other arguments. Every process declares everything
    over each new link, because the broker may have lost everything.
    """
    queues, limited = {}, []
    exchange = await channel.declare_exchange(full_name(EXCHANGE), "direct", durable=True)
    events = await declare_events(channel)
    for queue in WORK_QUEUES:
        arguments = await _dead_arguments(channel, dead(queue))
        if arguments is None:
            limited.append(dead(queue))
        queues[dead(queue)] = await _declare_queue(channel, exchange, dead(queue), arguments or {})
        queues[queue] = await _declare_queue(
            channel,
            exchange,
            queue,
            {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": full_name(EXCHANGE),
                "x-dead-letter-routing-key": dead(queue),
                **_AT_LEAST_ONCE,
            },
        )
    retry_exchanges = {}
    for delay_s in RETRY_DELAYS_S:
        name = retry(delay_s)
        retry_exchanges[delay_s], queues[name] = await _declare_retry_queue(channel, delay_s)
    return Topology(exchange, events, queues, retry_exchanges, limited)


def limit_advice(queue: str) -> str:
    """Return one line for an operator about a queue in `Topology.limited`."""
    name = full_name(queue)
    pattern = name.replace(".", r"\.")
    return (
        f"RabbitMQ: queue {name} was made before RabbitMQ {LIMITING_MAJOR}, and loses a "
        "message whose consumer is killed 20 times; unless you did before, type: rabbitmqctl "
        f"set_policy {name} '^{pattern}$' '{{\"delivery-limit\":-1}}' --apply-to queues"
    )


async def declare_events(channel: AbstractChannel) -> AbstractExchange:
    """Declare the exchange of events."""
    return await channel.declare_exchange(full_name(EVENTS), "topic", durable=True)


async def declare_view(channel: AbstractChannel, topic: str, length_max: int) -> AbstractQueue:
    """Declare a queue of the caller's own for the events of a topic; it ends with the link.

    A full queue drops its oldest event, so that a slow reader sees the newest ones.
    """
    queue = await channel.declare_queue(exclusive=True, arguments={"x-max-length": length_max})
    await queue.bind(await declare_events(channel), topic)
    return queue


async def declare_timer(
    channel: AbstractChannel, exchange: AbstractExchange, window_s: int
) -> AbstractQueue:
    """Declare the timer queue of a window; after `window_s` a message moves to orders.expire."""
    arguments = {
        "x-message-ttl": window_s * 1000,
        "x-dead-letter-exchange": full_name(EXCHANGE),
        "x-dead-letter-routing-key": ORDERS_EXPIRE,
        **_AT_LEAST_ONCE,
    }
    return await _declare_queue(channel, exchange, timer(window_s), arguments)


async def _dead_arguments(channel: AbstractChannel, name: str) -> dict[str, Any] | None:
    """Return the arguments with which a dead queue drops nothing; None if it exists without them.

    They are tried on a channel of their own, since a refusal closes the channel.
    """
    connection = (await channel.get_underlay_channel()).connection
    version = str(connection.server_properties.get("version", ""))
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) < LIMITING_MAJOR:
        return {}
    arguments = {"x-delivery-limit": -1}
    trial = await connection.channel()
    try:
        await trial.queue_declare(
            full_name(name), durable=True, arguments={"x-queue-type": "quorum", **arguments}
        )
    except ChannelPreconditionFailed:
        return None  # if its other arguments are wrong, too, the next declaration says so
    await trial.close()
    return arguments


async def _declare_retry_queue(
    channel: AbstractChannel, delay_s: int
) -> tuple[AbstractExchange, AbstractQueue]:
    """Declare a retry queue; after at most `delay_s` a message returns to its queue."""
    name = full_name(retry(delay_s))
    exchange = await channel.declare_exchange(name, "fanout", durable=True)
    arguments = {
        "x-message-ttl": delay_s * 1000,
        # Without a routing key: the message keeps its own.
        "x-dead-letter-exchange": full_name(EXCHANGE),
        **_AT_LEAST_ONCE,
    }
    return exchange, await _declare_queue(channel, exchange, retry(delay_s), arguments)


async def _declare_queue(
    channel: AbstractChannel, exchange: AbstractExchange, name: str, arguments: dict[str, Any]
) -> AbstractQueue:
    try:
        queue = await channel.declare_queue(
            full_name(name), durable=True, arguments={"x-queue-type": "quorum", **arguments}
        )
    except ChannelPreconditionFailed as error:
        # The text of the error names the argument, our value and the value of the queue.
        raise WrongQueue(
            f"RabbitMQ: queue {full_name(name)} was made by something else or another version "
            f"({error}); delete it, and it is made anew: rabbitmqctl delete_queue {full_name(name)}"
        ) from error
    await queue.bind(exchange, name)
    return queue
