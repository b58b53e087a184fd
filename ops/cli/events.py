"""`seckill events`: the events of orders and Sagas, as listeners get them."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import typer
from aio_pika.abc import AbstractIncomingMessage

from config.settings import load_settings
from ops.processes.tasks import until_signal
from seckill.adapters import namespace, topology
from seckill.adapters.rabbitmq import Broker, link_errors_as_unavailable
from seckill.errors import Unavailable, UserMistake

#: Events that wait on the broker for a terminal that is slow; older ones are dropped.
WAITING_MAX = 10_000
#: Events in memory before the terminal has taken them.
PREFETCH = 100

_TOPIC = re.compile(r"[a-z*#]+(\.[a-z*#]+)*")


def events(
    topic: Annotated[
        str, typer.Option(help="Only these: `order.*`, `order.paid`, `saga.*`; # for all.")
    ] = "#",
) -> None:
    """Print events of orders and Sagas as they happen, one line of JSON each, until Ctrl-C."""
    if not _TOPIC.fullmatch(topic):
        raise UserMistake(f"--topic {topic!r}: words with dots between them; * is any word, # any")
    settings = load_settings()
    settings.require("amqp_url")
    namespace.use(settings.namespace)
    broker = Broker(settings.amqp_url, "seckill-events", settings.connect_timeout_s)
    asyncio.run(until_signal(_follow(broker, topic)))


async def _follow(broker: Broker, topic: str) -> None:
    async with broker.channel() as channel:
        with link_errors_as_unavailable("starting to listen"):
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await topology.declare_view(channel, topic, WAITING_MAX)
            await queue.consume(_print)
        typer.echo(f"listening to {topic}; Ctrl-C ends it", err=True)
        await channel.closed()
        raise Unavailable("RabbitMQ: the link broke; events until you listen again are not shown")


async def _print(message: AbstractIncomingMessage) -> None:
    typer.echo(message.body)
    await message.ack()
