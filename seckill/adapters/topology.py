"""Every exchange and queue, declared here and nowhere else.

All queues are quorum queues: a message is fsynced before it is confirmed, and deliveries are
counted. https://www.rabbitmq.com/docs/quorum-queues
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aio_pika.exceptions import ChannelPreconditionFailed

from seckill.errors import WrongQueue

EXCHANGE = "seckill"
ORDERS_PLACE = "orders.place"
ORDERS_EXPIRE = "orders.expire"
SAGA_STEPS = "saga.steps"
#: Topic exchange; the topics are in docs/events.md.
EVENTS = "seckill.events"
#: Queues that roles work on. Each has a dead queue.
WORK_QUEUES = (ORDERS_PLACE, ORDERS_EXPIRE, SAGA_STEPS)

#: Waits of a message that failed: a moment, a hiccup, a restart, an outage; after that a person.
RETRY_DELAYS_S = (1, 5, 25, 125)

#: A message that killed its consumer this often is not retried again. At least 20, because an
#: ordinary restart of the pool also counts as a delivery.
DELIVERY_LIMIT = 20
#: Distinct payment windows, so distinct timer queues, that sales may use together.
TIMER_QUEUES_MAX = 16

# A dead-lettering queue would lose messages on a broker crash in mid-transfer; with these two it
# keeps a message until the target has confirmed it.
_AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def dead(queue: str) -> str:
    """Name the dead queue of a queue; idempotent."""
    return queue if queue.endswith(".dead") else f"{queue}.dead"


def timer(window_s: int) -> str:
    """Name the timer queue of a payment window in seconds.

    One queue for each window: RabbitMQ drops expired messages at the head only, so a short
    per-message TTL would wait behind a longer one.
    """
    return f"orders.timer.{window_s}s"


def retry(rung_s: int) -> str:
    """Name the queue of a rung of the retry ladder; its exchange is called the same.

    An exchange of its own, so that a message keeps its routing key, which is the name of the queue
    that it goes back to.
    """
    return f"retry.{rung_s}s"


#: Where the message of a grab can be that no consumer holds.
HOMES_OF_GRABS = (ORDERS_PLACE, dead(ORDERS_PLACE), *map(retry, RETRY_DELAYS_S))


@dataclass(frozen=True, slots=True)
class Topology:
    """What `declare` has made sure of, through one channel."""

    exchange: AbstractExchange
    events: AbstractExchange
    #: The work queues and their dead queues, by name.
    queues: dict[str, AbstractQueue]
    #: The exchanges of the retry ladder by their wait in seconds.
    rungs: dict[int, AbstractExchange]


async def declare(channel: AbstractChannel) -> Topology:
    """Declare the exchanges, the work queues with their dead queues, and the retry ladder.

    WrongQueue names one that is there with other arguments.

    Every process does, over each new link: the broker may have lost everything.
    """
    queues = {}
    exchange = await channel.declare_exchange(EXCHANGE, "direct", durable=True)
    events = await declare_events(channel)
    for queue in WORK_QUEUES:
        queues[dead(queue)] = await _declare_queue(channel, exchange, dead(queue), {})
        queues[queue] = await _declare_queue(
            channel,
            exchange,
            queue,
            {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": EXCHANGE,
                "x-dead-letter-routing-key": dead(queue),
                **_AT_LEAST_ONCE,
            },
        )
    rungs = {}
    for rung_s in RETRY_DELAYS_S:
        rungs[rung_s], queues[retry(rung_s)] = await _declare_rung(channel, rung_s)
    return Topology(exchange, events, queues, rungs)


async def declare_events(channel: AbstractChannel) -> AbstractExchange:
    """Declare the exchange of events."""
    return await channel.declare_exchange(EVENTS, "topic", durable=True)


async def declare_view(channel: AbstractChannel, topic: str, length_max: int) -> AbstractQueue:
    """Declare a queue for one who looks at events of a topic; it goes with the link.

    What is not taken in time makes room for what is newer.
    """
    queue = await channel.declare_queue(exclusive=True, arguments={"x-max-length": length_max})
    await queue.bind(await declare_events(channel), topic)
    return queue


async def _declare_rung(
    channel: AbstractChannel, rung_s: int
) -> tuple[AbstractExchange, AbstractQueue]:
    """Declare a rung; after at most `rung_s` a message goes back to the queue that it is from."""
    exchange = await channel.declare_exchange(retry(rung_s), "fanout", durable=True)
    arguments = {
        "x-message-ttl": rung_s * 1000,
        "x-dead-letter-exchange": EXCHANGE,  # without a routing key: the message keeps its own
        **_AT_LEAST_ONCE,
    }
    return exchange, await _declare_queue(channel, exchange, retry(rung_s), arguments)


async def declare_timer(
    channel: AbstractChannel, exchange: AbstractExchange, window_s: int
) -> AbstractQueue:
    """Declare the timer queue of a window; after `window_s` a message moves to orders.expire."""
    arguments = {
        "x-message-ttl": window_s * 1000,
        "x-dead-letter-exchange": EXCHANGE,
        "x-dead-letter-routing-key": ORDERS_EXPIRE,
        **_AT_LEAST_ONCE,
    }
    return await _declare_queue(channel, exchange, timer(window_s), arguments)


async def _declare_queue(
    channel: AbstractChannel, exchange: AbstractExchange, name: str, arguments: dict[str, Any]
) -> AbstractQueue:
    try:
        queue = await channel.declare_queue(
            name, durable=True, arguments={"x-queue-type": "quorum", **arguments}
        )
    except ChannelPreconditionFailed as error:
        # Its text names the argument, what we gave and what the queue has.
        raise WrongQueue(
            f"RabbitMQ: queue {name} was made by something else or another version ({error}); "
            f"delete it, and it is made anew: rabbitmqctl delete_queue {name}"
        ) from error
    await queue.bind(exchange, name)
    return queue
