"""The two ways a role runs: a queue consumer that merges and acks late, and a patient poller."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack

import aio_pika
import pytest

from consumers import roles
from consumers.runner import PollRole
from seckill.errors import Unavailable

_names = (f"test.runner.{n}" for n in itertools.count())


@pytest.fixture
async def send(consuming):
    """Publish messages to a quorum queue of the test's own; `send.queue` is its name."""
    async with consuming.channel() as channel:
        queue = await channel.declare_queue(
            next(_names), durable=True, arguments={"x-queue-type": "quorum"}
        )

        async def publish(*bodies):
            for body in bodies:
                message = aio_pika.Message(body.encode())
                await channel.default_exchange.publish(message, queue.name)

        publish.queue = queue.name
        yield publish
        await queue.delete(if_unused=False, if_empty=False)


class Notebook:
    """A handler that writes down what it is given."""

    def __init__(self):
        self.batches = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, batch):
        self.batches.append([message.body.decode() for message in batch])
        await self.gate.wait()

    @property
    def seen(self):
        return [body for batch in self.batches for body in batch]


@pytest.fixture
def notebook():
    return Notebook()


async def test_messages_are_handled_in_their_order(
    send, queue_role, running, notebook, eventually
):
    names = [f"message {i}" for i in range(20)]
    await send(*names)

    async with running(queue_role(send.queue, notebook.handle)):
        await eventually(lambda: len(notebook.seen) >= 20, "all messages handled")

    assert notebook.seen == names


async def test_what_arrived_meanwhile_is_merged_up_to_the_limit(
    send, queue_role, running, notebook, eventually
):
    notebook.gate.clear()
    role = queue_role(send.queue, notebook.handle, batch_max=3)
    async with running(role):
        await send("first")
        await eventually(lambda: notebook.batches, "first message handled")
        await send(*"abcde")
        await eventually(lambda: role._inbox.qsize() == 5, "the others delivered")
        notebook.gate.set()
        await eventually(lambda: len(notebook.seen) == 6, "all messages handled")

    assert notebook.batches == [["first"], ["a", "b", "c"], ["d", "e"]]


async def test_handled_messages_are_acknowledged(send, queue_role, running, notebook, eventually):
    await send("one", "two")
    async with running(queue_role(send.queue, notebook.handle)):
        await eventually(lambda: len(notebook.seen) == 2, "both handled")

    later = Notebook()
    await send("marker")
    async with running(queue_role(send.queue, later.handle)):
        await eventually(lambda: "marker" in later.seen, "marker handled")

    assert later.seen == ["marker"]


async def test_F13_a_handler_that_fails_stops_the_role_and_loses_nothing(
    send, queue_role, running, notebook, eventually
):
    await send("one", "two")

    async def broken(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await queue_role(send.queue, broken).run(asyncio.Event())
    async with running(queue_role(send.queue, notebook.handle)):
        await eventually(lambda: len(notebook.seen) == 2, "both delivered again")

    assert notebook.seen == ["one", "two"]


async def test_F23_a_batch_is_held_while_a_store_is_away(
    send, queue_role, running, notebook, eventually
):
    """Held, not requeued: the broker neither redelivers it nor counts a delivery."""
    tries = []

    async def handle(batch):
        tries.append([(m.body, m.redelivered) for m in batch])
        if len(tries) < 3:
            raise Unavailable
        await notebook.handle(batch)

    await send("one")
    async with running(queue_role(send.queue, handle)):
        await eventually(lambda: notebook.seen, "handled in the end")

    assert tries == [[(b"one", False)]] * 3


async def test_stopping_while_a_store_is_away_leaves_the_message(
    send, queue_role, running, notebook, eventually
):
    tried = asyncio.Event()

    async def away(_):
        tried.set()
        raise Unavailable

    await send("one")
    async with running(queue_role(send.queue, away)):
        await tried.wait()
    async with running(queue_role(send.queue, notebook.handle)):
        await eventually(lambda: notebook.seen, "delivered again")

    assert notebook.seen == ["one"]


async def test_stopping_finishes_the_batch_in_hand(
    send, queue_role, running, notebook, eventually
):
    notebook.gate.clear()
    await send("one")
    stop = asyncio.Event()
    role = asyncio.create_task(queue_role(send.queue, notebook.handle).run(stop))
    await eventually(lambda: notebook.seen, "in hand")
    stop.set()
    notebook.gate.set()
    await role

    later = Notebook()
    await send("marker")
    async with running(queue_role(send.queue, later.handle)):
        await eventually(lambda: "marker" in later.seen, "marker handled")
    assert later.seen == ["marker"]


async def break_channel(message, eventually):
    """Make the broker close the consumer's channel, as it does after its delivery timeout."""
    channel = message.channel
    await channel.basic_ack(delivery_tag=10**6)  # "unknown delivery tag"
    await eventually(lambda: channel.is_closed, "the broker has closed the channel")


async def break_connection(message, eventually):
    """Cut the connection, as a restarted broker does."""
    channel = message.channel
    channel.connection.transport.writer.transport.abort()
    await eventually(lambda: channel.is_closed, "the channel is gone")


@pytest.mark.parametrize("break_link", [break_channel, break_connection])
async def test_F24_a_consumer_whose_link_broke_goes_on(
    send, queue_role, running, notebook, eventually, break_link
):
    """What was handled but not acknowledged comes again; nothing is left lying."""
    broken = []

    async def handle(batch):
        await notebook.handle(batch)
        if not broken:
            broken.append(batch[0])
            await break_link(batch[0], eventually)

    await send("one")
    async with running(queue_role(send.queue, handle)):
        await eventually(lambda: notebook.seen == ["one", "one"], "delivered again")
        await eventually(lambda: try_to(send, "two"), "sent")
        await eventually(lambda: "two" in notebook.seen, "new message handled")

    assert notebook.seen[:2] == ["one", "one"]


async def try_to(send, body):
    """Publish, once the connection is back."""
    try:
        await send(body)
    except (aio_pika.exceptions.AMQPError, RuntimeError, OSError):
        return False
    return True


# Pollers.


async def test_poller_goes_on_at_once_while_there_is_more(running, eventually):
    """Its pause is an hour: whatever happens within a test happened without one."""
    backlog, turns = [True, True, True, False], []

    async def run_once():
        turns.append(None)
        return backlog.pop(0)

    async with running(PollRole("test", run_once, idle_s=3600)):
        await eventually(lambda: not backlog, "all polls")

    assert len(turns) == 4


async def test_poller_polls_again_after_its_pause(running, eventually):
    turns = []

    async def run_once():
        turns.append(None)
        return False

    async with running(PollRole("test", run_once, idle_s=0.001)):
        await eventually(lambda: len(turns) > 3, "some polls")


async def test_poller_outlives_a_store_that_is_away(running, eventually):
    answers = [Unavailable(), Unavailable(), None]

    async def run_once():
        answer = answers.pop(0)
        if answer:
            raise answer
        return False

    async with running(PollRole("test", run_once, idle_s=3600)):
        await eventually(lambda: not answers, "polls")


async def test_poller_that_fails_stops_loudly():
    async def run_once():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await PollRole("test", run_once, idle_s=3600).run(asyncio.Event())


# The process.


async def test_F27_a_consumer_process_closes_all_its_connections(settings, store, db, eventually):
    async def open_now():
        redis = {client["id"] for client in await store.client_list()}
        postgres = await db.fetch("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cl%'")
        return redis, {row[0] for row in postgres}

    async with AsyncExitStack() as stack:
        before = await open_now()
        stores = await roles.open_stores(settings, stack)
        await asyncio.gather(*(stores.stock.now_ms() for _ in range(4)))
        during = await open_now()
        assert all(now - then for now, then in zip(during, before, strict=True))

    async def all_closed():
        after = await open_now()
        return not any((now & then) - old for now, then, old in zip(after, during, before, strict=True))

    await eventually(all_closed, "no connection of the process is left")
