"""What is acknowledged: a batch and nothing else, in as few frames as that takes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from consumers.inbox import WORTH_A_BATCH, Ack, Inbox


async def filled(sales: str) -> Inbox:
    """Return an inbox that got a message of each of these sales, with the tags 1, 2 and so on."""
    inbox = Inbox(key=lambda message: message.body, weigh=lambda _: 1)
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


async def test_everything_in_hand_takes_one_ack() -> None:
    inbox = await filled("aabac")
    assert [(a.message.delivery_tag, a.multiple) for a in inbox.acks(inbox.take(99))] == [(5, True)]


@pytest.mark.parametrize("weight_max", range(1, 13))
async def test_no_ack_reaches_a_message_that_was_overtaken(weight_max: int) -> None:
    inbox = await filled("aaaaaaabacab")
    in_hand = set(range(1, 13))
    while batch := inbox.take(weight_max):
        tags = {message.delivery_tag for message in batch}
        assert acked(inbox.acks(batch), in_hand) == tags
        inbox.done(batch)
        in_hand -= tags
    assert not in_hand
    assert len(inbox) == 0


async def test_what_is_left_of_a_batch_that_was_not_handled_is_not_acknowledged() -> None:
    inbox = await filled("abc")
    first, second, third = inbox.take(99)
    inbox.done([second])
    assert acked(inbox.acks([third]), {1, 3}) == {3}
    assert acked(inbox.acks([first]), {1, 3}) == {1}


async def worth_a_batch(inbox: Inbox) -> bool:
    """Tell whether it is, without waiting for more."""
    waiting = asyncio.create_task(inbox.worth_a_batch(within_s=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    is_worth_it = waiting.done()
    waiting.cancel()
    return is_worth_it


async def test_the_wait_for_more_ends() -> None:
    await (await filled("a")).worth_a_batch(within_s=0.001)


async def test_a_sale_that_is_alone_waits_for_more_of_itself() -> None:
    assert not await worth_a_batch(await filled("a" * (WORTH_A_BATCH - 1)))
    assert await worth_a_batch(await filled("a" * WORTH_A_BATCH))


async def test_nobody_waits_for_more_of_another_sale() -> None:
    inbox = await filled("ab")
    assert await worth_a_batch(inbox)
    inbox.take(1)
    assert not await worth_a_batch(inbox)


async def test_what_comes_meanwhile_may_end_the_wait() -> None:
    inbox = await filled("a")
    waiting = asyncio.create_task(inbox.worth_a_batch(within_s=60))
    await asyncio.sleep(0)
    assert not waiting.done()
    await inbox.put(SimpleNamespace(delivery_tag=2, body="b", timestamp=None))
    await waiting


async def test_what_a_batch_leaves_behind_is_worth_the_next() -> None:
    inbox = await filled("a" * (WORTH_A_BATCH + 10))
    inbox.take(10)
    assert await worth_a_batch(inbox)
    inbox.take(1)
    assert not await worth_a_batch(inbox)
    inbox.clear()
    assert not await worth_a_batch(inbox)
