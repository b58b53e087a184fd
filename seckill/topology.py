"""Every exchange and queue, declared here and nowhere else.

All queues are quorum queues: a message is fsynced before it is confirmed, and deliveries are
counted. https://www.rabbitmq.com/docs/quorum-queues
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

EXCHANGE = "seckill"
ORDERS_PLACE = "orders.place"
ORDERS_EXPIRE = "orders.expire"

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


@dataclass(frozen=True, slots=True)
class Topology:
    """What `declare` has made sure of, through one channel."""

    exchange: AbstractExchange
    #: The work queues by name.
    queues: dict[str, AbstractQueue]


async def declare(channel: AbstractChannel) -> Topology:
    """Declare the exchange and the work queues with their dead queues.

    Every process does, on each of its channels: a robust channel declares all of it again when it
    comes back, should the broker have lost everything.
    """
    queues = {}
    exchange = await channel.declare_exchange(EXCHANGE, "direct", durable=True)
    for queue in (ORDERS_PLACE, ORDERS_EXPIRE):
        await _declare_queue(channel, exchange, dead(queue), {})
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
    return Topology(exchange, queues)


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
    queue = await channel.declare_queue(
        name, durable=True, arguments={"x-queue-type": "quorum", **arguments}
    )
    await queue.bind(exchange, name)
    return queue
