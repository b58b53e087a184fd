"""The two ways a role runs: a queue consumer that merges and acks late, and a patient poller."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit, urlunsplit

import pytest

from consumers.resources import open_resources
from consumers.runtime.poll_role import Polled, PollRole
from seckill.adapters import topology
from seckill.errors import Unavailable

#: Any work queue will do; what lies in it here is read by nobody else.
QUEUE = topology.ORDERS_EXPIRE


@pytest.fixture
def send(publisher, queues):
    async def publish(*bodies):
        for body in bodies:
            await publisher.publish(QUEUE, body.encode())

    return publish


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


async def test_messages_are_handled_in_their_order(send, queue_role, running, notebook, eventually):
    names = [f"message {i}" for i in range(20)]
    await send(*names)

    async with running(queue_role(QUEUE, notebook.handle)):
        await eventually(lambda: len(notebook.seen) >= 20, "all messages handled")

    assert notebook.seen == names


async def test_what_arrived_meanwhile_is_merged_up_to_the_limit(
    send, queue_role, running, notebook, eventually, queues
):
    async with running(queue_role(QUEUE, notebook.handle, batch_max=3)):
        await send("careful start")
        await eventually(lambda: notebook.batches, "the first message handled, alone")
        notebook.gate.clear()
        await send("first")
        await eventually(lambda: len(notebook.batches) == 2, "the next one in hand")
        await send(*"abcde")
        await eventually(lambda: queues.all_delivered(QUEUE), "the others delivered")
        notebook.gate.set()
        await eventually(lambda: len(notebook.seen) == 7, "all messages handled")

    assert notebook.batches[1:] == [["first"], ["a", "b", "c"], ["d", "e"]]


async def test_handled_messages_are_acknowledged(send, queue_role, running, notebook, eventually):
    await send("one", "two")
    async with running(queue_role(QUEUE, notebook.handle)):
        await eventually(lambda: len(notebook.seen) == 2, "both handled")

    later = Notebook()
    await send("marker")
    async with running(queue_role(QUEUE, later.handle)):
        await eventually(lambda: "marker" in later.seen, "marker handled")

    assert later.seen == ["marker"]


async def test_a_batch_that_fails_is_halved_until_the_culprit_is_alone(
    send, queue_role, running, notebook, eventually, queues
):
    """It waits on the first rung; the others are handled, each once more at most."""
    tries = []

    async def handle(batch):
        bodies = [message.body for message in batch]
        tries.append(bodies)
        if b"bad" in bodies:
            raise ZeroDivisionError
        await notebook.handle(batch)

    async with running(queue_role(QUEUE, handle)):
        await send("careful start")
        await eventually(lambda: notebook.batches, "the first message handled, alone")
        notebook.gate.clear()
        await send("in hand")
        await eventually(lambda: len(notebook.batches) == 2, "the next one in hand")
        await send("one", "two", "bad", "three")
        await eventually(lambda: queues.all_delivered(QUEUE), "the others delivered")
        notebook.gate.set()
        await eventually(lambda: len(notebook.seen) == 5, "the good ones handled")
        await eventually(lambda: tries.count([b"bad"]) > 1, "the bad one back from its rung")

    assert notebook.seen[2:] == ["one", "two", "three"]
    assert tries[2:5] == [[b"one", b"two", b"bad", b"three"], [b"one", b"two"], [b"bad", b"three"]]


async def test_a_batch_takes_one_of_each_sale_in_turn(
    send, queue_role, running, notebook, eventually, queues
):
    """A sale with many messages does not hold up one with few."""
    async with running(queue_role(QUEUE, notebook.handle, batch_max=3, key=lambda m: m.body[:1])):
        await send("careful start")
        await eventually(lambda: notebook.batches, "the first message handled, alone")
        notebook.gate.clear()
        await send("in hand")
        await eventually(lambda: len(notebook.batches) == 2, "the next one in hand")
        await send("a1", "a2", "a3", "a4", "b1", "a5", "c1", "b2")
        await eventually(lambda: queues.all_delivered(QUEUE), "the others delivered")
        notebook.gate.set()
        await eventually(lambda: len(notebook.seen) == 10, "all messages handled")

    assert notebook.batches[2:] == [["a1", "b1", "c1"], ["a2", "b2", "a3"], ["a4", "a5"]]


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
    async with running(queue_role(QUEUE, handle)):
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
    async with running(queue_role(QUEUE, away)):
        await eventually(tried.is_set, "tried")
    async with running(queue_role(QUEUE, notebook.handle)):
        await eventually(lambda: notebook.seen, "delivered again")

    assert notebook.seen == ["one"]


async def test_stopping_finishes_the_batch_in_hand(send, queue_role, running, notebook, eventually):
    notebook.gate.clear()
    await send("one")
    stop = asyncio.Event()
    role = asyncio.create_task(queue_role(QUEUE, notebook.handle).run(stop))
    await eventually(lambda: notebook.seen, "in hand")
    stop.set()
    notebook.gate.set()
    await role

    later = Notebook()
    await send("marker")
    async with running(queue_role(QUEUE, later.handle)):
        await eventually(lambda: "marker" in later.seen, "marker handled")
    assert later.seen == ["marker"]


async def break_channel(channel, _):
    """Make the broker close the consumer's channel, as it does after its delivery timeout."""
    await channel.basic_ack(delivery_tag=10**6)  # "unknown delivery tag"


async def break_connection(_, proxy):
    """Cut the connection, as the restart of a broker does."""
    await proxy.cut()


@pytest.mark.parametrize("break_link", [break_channel, break_connection])
async def test_F24_a_consumer_whose_link_broke_goes_on(
    proxy, send, queue_role, running, notebook, eventually, break_link
):
    """What was handled but not acknowledged comes again; nothing is left lying."""

    async def handle(batch):
        await notebook.handle(batch)
        if len(notebook.batches) == 1:
            channel = batch[0].channel
            await break_link(channel, proxy)
            await eventually(lambda: channel.is_closed, "the channel is gone")

    await send("one")
    async with running(queue_role(QUEUE, handle, url=proxy.url)):
        await eventually(lambda: len(notebook.seen) == 2, "delivered again")
        await send("two")
        await eventually(lambda: len(notebook.seen) == 3, "new message handled")

    assert notebook.seen == ["one", "one", "two"]


async def test_F24_a_consumer_outlives_a_broker_that_is_not_there(
    proxy, send, queue_role, running, notebook, eventually
):
    await send("one")
    proxy.refuses = True
    async with running(queue_role(QUEUE, notebook.handle, url=proxy.url)):
        await eventually(lambda: proxy.refused > 1, "tried more than once")
        proxy.refuses = False
        await eventually(lambda: notebook.seen, "handled")

    assert notebook.seen == ["one"]


async def test_F24_a_consumer_whose_queue_was_deleted_makes_it_anew(
    send, queue_role, running, notebook, eventually, queues
):
    async def sent():
        try:
            await send("two")
        except Unavailable:  # the queue is there again, but not bound yet
            return False
        return True

    async with running(queue_role(QUEUE, notebook.handle)):
        await send("one")
        await eventually(lambda: notebook.seen == ["one"], "handled")
        await queues.delete(QUEUE)
        await eventually(lambda: queues.exists(QUEUE), "the queue is there again")
        await eventually(sent, "the next message is taken by the broker")
        await eventually(lambda: notebook.seen == ["one", "two"], "handled")


class Proxy:
    """Stands between a client and the broker, so that a test can cut the wire."""

    def __init__(self, amqp_url):
        self._broker = urlsplit(amqp_url)
        self._writers = []
        self._pumps = set()
        self.refuses, self.refused = False, 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        login = self._broker.netloc.rpartition("@")[0]
        self.url = urlunsplit(self._broker._replace(netloc=f"{login}@127.0.0.1:{port}"))
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self.cut()

    async def cut(self):
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await asyncio.gather(*self._pumps)

    async def _serve(self, reader, writer):
        if self.refuses:
            self.refused += 1
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._broker.hostname, self._broker.port)
        self._writers += [writer, back]
        for pair in ((reader, back), (there, writer)):
            self._pumps.add(pump := asyncio.create_task(self._pump(*pair)))
            pump.add_done_callback(self._pumps.discard)

    @staticmethod
    async def _pump(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(settings):
    async with Proxy(settings.amqp_url) as running:
        yield running


# Pollers.


async def test_poller_goes_on_at_once_while_there_is_more(running, eventually):
    """Its pause is an hour: whatever happens within a test happened without one."""
    backlog, turns = [True, True, True, False], []

    async def run_once():
        turns.append(None)
        return Polled(1, more=backlog.pop(0))

    async with running(PollRole("test", run_once, idle_s=3600)):
        await eventually(lambda: not backlog, "all polls")

    assert len(turns) == 4


async def test_poller_polls_again_after_its_pause(running, eventually):
    turns = []

    async def run_once():
        turns.append(None)
        return Polled(0, more=False)

    async with running(PollRole("test", run_once, idle_s=0.001)):
        await eventually(lambda: len(turns) > 3, "some polls")


async def test_poller_that_did_something_comes_back_sooner(running, eventually):
    turns = []

    async def run_once():
        turns.append(None)
        return Polled(1, more=False)

    async with running(PollRole("test", run_once, idle_s=3600, busy_s=0.001)):
        await eventually(lambda: len(turns) > 3, "some polls")


async def test_poller_outlives_a_store_that_is_away(running, eventually):
    answers = [Unavailable(), Unavailable(), None]

    async def run_once():
        answer = answers.pop(0)
        if answer:
            raise answer
        return Polled(0, more=False)

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
        stores = await open_resources(settings, stack)
        await asyncio.gather(*(stores.stock.now_ms() for _ in range(4)))
        during = await open_now()
        assert all(now - then for now, then in zip(during, before, strict=True))

    async def all_closed():
        after = await open_now()
        return not any(
            (now & then) - old for now, then, old in zip(after, during, before, strict=True)
        )

    await eventually(all_closed, "no connection of the process is left")
