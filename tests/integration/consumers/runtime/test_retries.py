"""The retry schedule on the real broker: delays, headers, order, and the dead letter at the end."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from consumers.runtime import retries
from seckill import messages
from seckill.adapters import topology
from seckill.clock import now_ms
from seckill.errors import Unavailable


@pytest.fixture
def failing():
    """A handler that always fails, and writes down when it was called."""

    async def handle(batch):
        for message in batch:
            handle.seen.append((time.time(), dict(message.headers), message.timestamp))
        raise ZeroDivisionError("on purpose")

    handle.seen = []
    return handle


@pytest.fixture
def delays_s(monkeypatch):
    """The first two delays alone, so that a schedule takes seconds."""
    monkeypatch.setattr(retries, "RETRY_DELAYS_S", topology.RETRY_DELAYS_S[:2])
    return retries.RETRY_DELAYS_S


async def test_F23_a_message_that_always_fails_is_retried_and_then_dead_lettered(
    publisher, queues, queue, consuming, eventually, failing, delays_s
):
    """No wait is shorter than its delay allows, no worker sleeps, and no message is requeued."""
    sent_ms = now_ms()
    await publisher.publish(queue, b"poison")

    async with consuming(failing):
        await eventually(lambda: queues.size(topology.dead(queue)), "the message is dead")

    times = [at for at, _, _ in failing.seen]
    waits = [after - before for before, after in pairwise(times)]
    assert len(waits) == len(delays_s)
    assert all(wait >= s * retries.JITTER[0] for wait, s in zip(waits, delays_s, strict=True))
    assert [headers.get("x-attempts") for _, headers, _ in failing.seen] == [None, 1, 2]
    assert all("x-delivery-count" not in headers for _, headers, _ in failing.seen)
    assert len({sent_at for _, _, sent_at in failing.seen}) == 1

    (dead,) = await queues.dead(queue)
    assert dead.body == b"poison"
    assert dead.headers["x-reason"] == "ZeroDivisionError: on purpose"
    assert "in handle" in dead.headers["x-stack"]
    assert dead.headers["x-attempts"] == len(delays_s) + 1
    first, last = dead.headers["x-first-failed-ms"], dead.headers["x-last-failed-ms"]
    assert sent_ms <= first < last <= now_ms()


async def test_other_messages_are_handled_while_one_waits(
    send, consuming, queues, notebook, eventually
):
    async def handle(batch):
        if any(message.body == b"bad" for message in batch):
            raise ZeroDivisionError
        await notebook.handle(batch)

    await send("bad")
    async with consuming(handle):
        await eventually(lambda: queues.size(topology.retry(1)), "in its retry queue")
        await send("good")
        await eventually(lambda: notebook.seen == ["good"], "the other one is handled")


@pytest.mark.parametrize("work_queue", topology.WORK_QUEUES)
async def test_a_message_returns_to_its_own_queue(
    publisher, queues, queue_role, running, eventually, work_queue
):
    keys = []

    async def handle(batch):
        keys.extend(message.routing_key for message in batch)
        if len(keys) == 1:
            raise ZeroDivisionError

    await publisher.publish(work_queue, b"x")
    async with running(queue_role(work_queue, handle)):
        await eventually(lambda: len(keys) == 2, "tried again")

    assert keys == [work_queue] * 2


async def test_a_newer_version_is_retried_and_not_dead_lettered(
    publisher, queues, queue, consuming, eventually
):
    """An older consumer must not dead-letter what a newer one understands."""

    async def handle(batch):
        for message in batch:
            messages.decode_expire(message.body)

    await publisher.publish(queue, messages.encode_expire([]).replace(b"\xa1v\x01", b"\xa1v\x02"))
    async with consuming(handle):
        await eventually(lambda: queues.size(topology.retry(1)), "in the first retry queue")

    assert await queues.dead(queue) == []


async def test_a_broker_that_does_not_confirm_leaves_one_copy(
    publisher, queues, queue, consuming, eventually, failing, monkeypatch
):
    """The message is not acknowledged before its copy is confirmed, and not handled again."""
    real, refusals = publisher.publish_later, [Unavailable(), Unavailable()]

    async def publish_later(*args):
        if refusals:
            raise refusals.pop()
        await real(*args)

    monkeypatch.setattr(publisher, "publish_later", publish_later)
    await publisher.publish(queue, b"x")
    async with consuming(failing):
        await eventually(lambda: queues.size(topology.retry(1)), "in its retry queue")

    assert refusals == []
    assert len(failing.seen) == 1
