"""The retry ladder on the real broker: waits, headers, order, and what lies dead in the end."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from consumers.runtime import retries
from seckill import messages
from seckill.adapters import topology
from seckill.clock import now_ms
from seckill.errors import Unavailable

QUEUE = topology.ORDERS_EXPIRE


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
def rungs(monkeypatch):
    """The first two rungs, so that a climb takes seconds; the others are declared just so."""
    monkeypatch.setattr(retries, "RETRY_DELAYS_S", topology.RETRY_DELAYS_S[:2])
    return retries.RETRY_DELAYS_S


async def test_F23_a_message_that_fails_for_ever_climbs_and_lies_dead(
    publisher, queues, queue_role, running, eventually, failing, rungs
):
    """No waiting is shorter than its rung allows; no worker sleeps, and nothing is requeued hot."""
    sent_ms = now_ms()
    await publisher.publish(QUEUE, b"poison")

    async with running(queue_role(QUEUE, failing)):
        await eventually(lambda: queues.size(topology.dead(QUEUE)), "the message is dead")

    times = [at for at, _, _ in failing.seen]
    waits = [after - before for before, after in pairwise(times)]
    assert len(waits) == len(rungs)
    assert all(wait >= rung * retries.JITTER[0] for wait, rung in zip(waits, rungs, strict=True))
    assert [headers.get("x-attempts") for _, headers, _ in failing.seen] == [None, 1, 2]
    assert all("x-delivery-count" not in headers for _, headers, _ in failing.seen)
    assert len({sent_at for _, _, sent_at in failing.seen}) == 1

    (dead,) = await queues.dead(QUEUE)
    assert dead.body == b"poison"
    assert dead.headers["x-reason"] == "ZeroDivisionError: on purpose"
    assert "in handle" in dead.headers["x-stack"]
    assert dead.headers["x-attempts"] == len(rungs) + 1
    first, last = dead.headers["x-first-failed-ms"], dead.headers["x-last-failed-ms"]
    assert sent_ms <= first < last <= now_ms()


async def test_others_are_handled_while_one_waits(
    publisher, queues, queue_role, running, eventually
):
    handled = []

    async def handle(batch):
        if any(message.body == b"bad" for message in batch):
            raise ZeroDivisionError
        handled.extend(message.body for message in batch)

    await publisher.publish(QUEUE, b"bad")
    async with running(queue_role(QUEUE, handle)):
        await eventually(lambda: queues.size(topology.retry(1)), "on its rung")
        await publisher.publish(QUEUE, b"good")
        await eventually(lambda: handled == [b"good"], "the other one is handled")


@pytest.mark.parametrize("queue", topology.WORK_QUEUES)
async def test_a_message_comes_back_to_its_own_queue(
    publisher, queues, queue_role, running, eventually, queue
):
    tries = []

    async def handle(batch):
        tries.extend(message.routing_key for message in batch)
        if len(tries) == 1:
            raise ZeroDivisionError

    await publisher.publish(queue, b"x")
    async with running(queue_role(queue, handle)):
        await eventually(lambda: len(tries) == 2, "tried again")

    assert tries == [queue] * 2


async def test_a_newer_version_climbs_and_is_not_dead(
    publisher, queues, queue_role, running, eventually
):
    """A consumer that was not updated yet must not bury what an updated one understands."""

    async def handle(batch):
        for message in batch:
            messages.decode_expire(message.body)

    await publisher.publish(QUEUE, messages.encode_expire([]).replace(b"\xa1v\x01", b"\xa1v\x02"))
    async with running(queue_role(QUEUE, handle)):
        await eventually(lambda: queues.size(topology.retry(1)), "on the first rung")

    assert await queues.dead(QUEUE) == []


async def test_a_broker_that_does_not_confirm_leaves_one_copy(
    publisher, queues, queue_role, running, eventually, failing, monkeypatch
):
    """Nothing is acknowledged before the copy is confirmed, and nothing is handled again."""
    real, refusals = publisher.publish_later, [Unavailable(), Unavailable()]

    async def publish_later(*args):
        if refusals:
            raise refusals.pop()
        await real(*args)

    monkeypatch.setattr(publisher, "publish_later", publish_later)
    await publisher.publish(QUEUE, b"x")
    async with running(queue_role(QUEUE, failing)):
        await eventually(lambda: queues.size(topology.retry(1)), "on its rung")

    assert refusals == []
    assert len(failing.seen) == 1
