"""A queue consumer: it merges messages fairly, and acknowledges after its handler."""

from __future__ import annotations

import asyncio

import pytest

from seckill.errors import Unavailable


@pytest.fixture
def occupied(send, notebook, eventually, queues, queue):
    """Let the handler wait with a message, until messages sent meanwhile are delivered as well.

    The first message of a consumer is handled alone; a second one closes the gate.
    """

    async def occupy(*texts):
        await send("alone")
        await eventually(lambda: notebook.batches, "the first message is handled, alone")
        notebook.gate.clear()
        await send("held")
        await eventually(lambda: len(notebook.batches) == 2, "the next one is in flight")
        await send(*texts)
        await eventually(lambda: queues.all_delivered(queue), "the others are delivered")
        notebook.gate.set()

    return occupy


async def test_messages_are_handled_in_their_order(send, consuming, notebook, eventually):
    names = [f"message {i}" for i in range(20)]
    await send(*names)

    async with consuming(notebook.handle):
        await eventually(lambda: len(notebook.seen) >= 20, "all messages are handled")

    assert notebook.seen == names


async def test_what_arrived_meanwhile_is_merged_up_to_the_limit(
    consuming, notebook, eventually, occupied
):
    async with consuming(notebook.handle, batch_max=3):
        await occupied(*"abcde")
        await eventually(lambda: len(notebook.seen) == 7, "all messages are handled")

    assert notebook.batches[1:] == [["held"], ["a", "b", "c"], ["d", "e"]]


async def test_handled_messages_are_acknowledged(
    send, consuming, notebook, eventually, assert_all_acknowledged
):
    await send("one", "two")
    async with consuming(notebook.handle):
        await eventually(lambda: len(notebook.seen) == 2, "both are handled")

    await assert_all_acknowledged()


async def test_a_batch_that_fails_is_halved_until_the_culprit_is_alone(
    consuming, notebook, eventually, occupied
):
    """It waits in the first retry queue; the others are handled, each once more at most."""
    attempts = []

    async def handle(batch):
        texts = [message.body.decode() for message in batch]
        attempts.append(texts)
        if "bad" in texts:
            raise ZeroDivisionError
        await notebook.handle(batch)

    async with consuming(handle):
        await occupied("one", "two", "bad", "three")
        await eventually(lambda: len(notebook.seen) == 5, "the good ones are handled")
        await eventually(lambda: attempts.count(["bad"]) > 1, "the bad one is back")

    assert notebook.seen[2:] == ["one", "two", "three"]
    assert attempts[2:5] == [["one", "two", "bad", "three"], ["one", "two"], ["bad", "three"]]


async def test_a_batch_takes_one_of_each_sale_in_turn(consuming, notebook, eventually, occupied):
    """A sale with many messages does not hold up one with few."""
    async with consuming(notebook.handle, batch_max=3, key=lambda m: m.body[:1]):
        await occupied("a1", "a2", "a3", "a4", "b1", "a5", "c1", "b2")
        await eventually(lambda: len(notebook.seen) == 10, "all messages are handled")

    assert notebook.batches[2:] == [["a1", "b1", "c1"], ["a2", "b2", "a3"], ["a4", "a5"]]


async def test_F23_a_batch_is_held_while_a_store_is_unavailable(
    send, consuming, notebook, eventually
):
    """Held, not requeued: the broker neither delivers it again nor counts a delivery."""
    attempts = []

    async def handle(batch):
        attempts.append([(m.body, m.redelivered) for m in batch])
        if len(attempts) < 3:
            raise Unavailable
        await notebook.handle(batch)

    await send("one")
    async with consuming(handle):
        await eventually(lambda: notebook.seen, "handled in the end")

    assert attempts == [[(b"one", False)]] * 3


async def test_stopping_while_a_store_is_unavailable_leaves_the_message(
    send, consuming, notebook, eventually
):
    tried = asyncio.Event()

    async def fail(_):
        tried.set()
        raise Unavailable

    await send("one")
    async with consuming(fail):
        await eventually(tried.is_set, "tried")
    async with consuming(notebook.handle):
        await eventually(lambda: notebook.seen, "delivered again")

    assert notebook.seen == ["one"]


async def test_stopping_finishes_the_batch_in_flight(
    send, queue_role, queue, notebook, eventually, assert_all_acknowledged
):
    notebook.gate.clear()
    await send("one")
    stop = asyncio.Event()
    role = asyncio.create_task(queue_role(queue, notebook.handle).run(stop))
    await eventually(lambda: notebook.seen, "in flight")
    stop.set()
    notebook.gate.set()
    await role

    await assert_all_acknowledged()
