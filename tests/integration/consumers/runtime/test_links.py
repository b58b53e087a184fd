"""A consumer whose link to the broker breaks: it continues, and no message is lost."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import pytest

from loadtest.proxy import Proxy
from seckill.errors import Unavailable


@pytest.fixture
async def proxy(settings):
    broker = urlsplit(settings.amqp_url)
    async with Proxy(broker.hostname, broker.port) as proxy:
        yield proxy


@pytest.fixture
def url(settings, proxy):
    """The address of the broker through the proxy."""
    broker = urlsplit(settings.amqp_url)
    login = broker.netloc.rpartition("@")[0]
    return urlunsplit(broker._replace(netloc=f"{login}@127.0.0.1:{proxy.port}"))


async def break_channel(channel, _):
    """Make the broker close the consumer's channel, as it does after its delivery timeout."""
    await channel.basic_ack(delivery_tag=10**6)  # "unknown delivery tag"


async def break_connection(_, proxy):
    """Cut the connection, as the restart of a broker does."""
    proxy.cut()


@pytest.mark.parametrize("break_link", [break_channel, break_connection])
async def test_F24_a_consumer_whose_link_broke_continues(
    proxy, url, send, consuming, notebook, eventually, break_link
):
    """A message that was handled but not acknowledged is delivered again."""

    async def handle(batch):
        await notebook.handle(batch)
        if len(notebook.batches) == 1:
            channel = batch[0].channel
            await break_link(channel, proxy)
            await eventually(lambda: channel.is_closed, "the channel is gone")

    await send("one")
    async with consuming(handle, url=url):
        await eventually(lambda: len(notebook.seen) == 2, "delivered again")
        await send("two")
        await eventually(lambda: len(notebook.seen) == 3, "new message handled")

    assert notebook.seen == ["one", "one", "two"]


async def test_F24_a_consumer_outlives_a_broker_that_refuses_links(
    proxy, url, send, consuming, notebook, eventually
):
    await send("one")
    proxy.refuses = True
    async with consuming(notebook.handle, url=url):
        await eventually(lambda: proxy.refused > 1, "tried more than once")
        proxy.refuses = False
        await eventually(lambda: notebook.seen, "handled")

    assert notebook.seen == ["one"]


async def test_F24_a_consumer_whose_queue_was_deleted_makes_it_anew(
    send, consuming, notebook, eventually, queues, queue
):
    async def sent():
        try:
            await send("two")
        except Unavailable:  # the queue is there again, but not bound yet
            return False
        return True

    async with consuming(notebook.handle):
        await send("one")
        await eventually(lambda: notebook.seen == ["one"], "handled")
        await queues.delete(queue)
        await eventually(lambda: queues.exists(queue), "the queue is there again")
        await eventually(sent, "the broker has taken the next message")
        await eventually(lambda: notebook.seen == ["one", "two"], "handled")
