"""What is acknowledged: a batch and nothing else, in as few frames as that takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from consumers.inbox import Ack, Inbox


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
