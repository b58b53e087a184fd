"""What is acknowledged: a batch and nothing else, in as few frames as that takes."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from consumers.runtime import fair_inbox
from consumers.runtime.fair_inbox import FULL_WEIGHT, WHOLE_REST_WEIGHT, Ack, FairInbox


async def filled(sales: str) -> FairInbox:
    """Return an inbox that got a message of each of these sales, with the tags 1, 2 and so on."""
    inbox = FairInbox(key=lambda message: message.body, weigh=lambda _: 1)
    for tag, sale in enumerate(sales, 1):
        await inbox.put(SimpleNamespace(delivery_tag=tag, body=sale, timestamp=None))
    return inbox


def acked(acks: list[Ack], tags: set[int]) -> set[int]:
    """Return which of these tags, not acknowledged by now, RabbitMQ takes those for."""
    return {
        tag
        for tag in tags
        for message, multiple in acks
        if tag == message.delivery_tag or (multiple and tag <= message.delivery_tag)
    }


async def test_everything_in_flight_takes_one_ack() -> None:
    inbox = await filled("aabac")
    assert [(a.message.delivery_tag, a.multiple) for a in inbox.acks(inbox.take(99))] == [(5, True)]


@pytest.mark.parametrize("weight_max", range(1, 13))
async def test_no_ack_reaches_a_message_that_was_overtaken(weight_max: int) -> None:
    inbox = await filled("aaaaaaabacab")
    in_flight = set(range(1, 13))
    while batch := inbox.take(weight_max):
        tags = {message.delivery_tag for message in batch}
        assert acked(inbox.acks(batch), in_flight) == tags
        inbox.done(batch)
        in_flight -= tags
    assert not in_flight
    assert len(inbox) == 0


async def test_what_is_left_of_a_batch_that_was_not_handled_is_not_acknowledged() -> None:
    inbox = await filled("abc")
    first, second, third = inbox.take(99)
    inbox.done([second])
    assert acked(inbox.acks([third]), {1, 3}) == {3}
    assert acked(inbox.acks([first]), {1, 3}) == {1}


def message(tag: int, sale: str, weight: int) -> SimpleNamespace:
    return SimpleNamespace(delivery_tag=tag, body=sale, weight=weight, timestamp=None)


async def resting() -> FairInbox:
    """Return an inbox that rests, for an hour, after a heavy batch."""
    inbox = FairInbox(key=lambda m: m.body, weigh=lambda m: m.weight, spacing_s=3600)
    await inbox.put(message(1, "a", WHOLE_REST_WEIGHT))
    assert await has_a_batch(inbox)
    inbox.done(inbox.take(1000))
    return inbox


async def has_a_batch(inbox: FairInbox) -> bool:
    """Return whether a batch can be taken at once."""
    waiting = asyncio.create_task(inbox.arrived())
    for _ in range(3):
        await asyncio.sleep(0)
    has_one = waiting.done()
    waiting.cancel()
    return has_one


async def test_a_sale_that_is_alone_rests_until_more_of_it_is_there() -> None:
    inbox = await resting()
    await inbox.put(message(2, "a", FULL_WEIGHT - 1))
    assert not await has_a_batch(inbox)
    await inbox.put(message(3, "a", 1))
    assert await has_a_batch(inbox)


async def test_another_sale_ends_the_rest() -> None:
    inbox = await resting()
    await inbox.put(message(2, "a", 1))
    waiting = asyncio.create_task(inbox.arrived())
    await asyncio.sleep(0)
    await inbox.put(message(3, "b", 1))
    await waiting
    inbox.take(1)
    assert not await has_a_batch(inbox)


async def test_the_rest_has_an_end() -> None:
    inbox = FairInbox(key=lambda m: m.body, weigh=lambda m: m.weight, spacing_s=0.001)
    for tag in (1, 2):
        await inbox.put(message(tag, "a", WHOLE_REST_WEIGHT))
        await inbox.arrived()
        inbox.take(1000)


async def test_a_light_batch_is_followed_by_a_short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(fair_inbox, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    inbox = FairInbox(key=lambda m: m.body, weigh=lambda m: m.weight, spacing_s=16.0)
    for tag in (1, 2):
        await inbox.put(message(tag, "a", WHOLE_REST_WEIGHT // 4))
    inbox.take(1)
    now = 3.9
    assert not await has_a_batch(inbox)
    now = 4.0
    assert await has_a_batch(inbox)


async def test_what_a_batch_leaves_behind_may_be_worth_the_next() -> None:
    inbox = await resting()
    for tag in (2, 3):
        await inbox.put(message(tag, "a", FULL_WEIGHT))
    inbox.take(1)
    assert await has_a_batch(inbox)
    inbox.clear()
    assert not await has_a_batch(inbox)
