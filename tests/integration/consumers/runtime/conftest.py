"""What the tests of consumers share: a queue to consume, and a handler that takes notes."""

from __future__ import annotations

import asyncio

import pytest

from seckill.adapters import topology


@pytest.fixture(scope="session")
def queue():
    """The name of a work queue; any of them will do, as no other consumer runs."""
    return topology.ORDERS_EXPIRE


@pytest.fixture
def send(publisher, queues, queue):
    """Publish texts, each as a message."""

    async def publish(*texts):
        for text in texts:
            await publisher.publish(queue, text.encode())

    return publish


class Notebook:
    """A handler that writes down what it is given, and returns when its gate is open."""

    def __init__(self):
        self.batches = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, batch):
        self.batches.append([message.body.decode() for message in batch])
        await self.gate.wait()

    @property
    def seen(self):
        return [text for batch in self.batches for text in batch]


@pytest.fixture
def notebook():
    return Notebook()


@pytest.fixture
def consuming(queue_role, running, queue):
    """Consume the queue with a handler as long as the block lasts."""

    def consume(handle, **options):
        return running(queue_role(queue, handle, **options))

    return consume


@pytest.fixture
def assert_all_acknowledged(send, consuming, eventually):
    """A new consumer gets a marker, and no message that was there before."""

    async def check():
        notebook = Notebook()
        await send("marker")
        async with consuming(notebook.handle):
            await eventually(lambda: "marker" in notebook.seen, "marker handled")
        assert notebook.seen == ["marker"]

    return check
