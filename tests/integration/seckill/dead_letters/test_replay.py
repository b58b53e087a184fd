"""A replayed letter: its message is lost at no step, and becomes an order once."""

from __future__ import annotations

import asyncio

import pytest

from seckill import messages
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.dead_letters.resolution import REPLAYS_MAX, Resolution
from seckill.errors import Unavailable
from seckill.messages import BODY_BYTES_MAX


async def test_a_replayed_letter_becomes_its_order(
    open_sale, shop, letters, replay, place, queues, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)

    assert await replay(letter) is Resolution.REPLAYED
    (message,) = await queues.take(ORDERS_PLACE, 1, no_ack=False)
    assert message.body == letter.body
    assert message.headers.keys() <= {"x-delivery-count"}  # the broker's own
    await message.nack(requeue=True)
    await place()

    assert await shop.states(sale, [ann]) == ["pending"]
    (closed,) = await letters.all()
    assert (closed.state, closed.replays, closed.closed_by) == ("replayed", 1, "ops")
    (row,) = await letters.audited("dead.replay")
    assert (row["actor"], row["sale_id"]) == ("ops", sale.sale_id)
    assert row["details"]["letter_id"] == letter.letter_id
    await assert_balanced(sale)


async def test_a_timer_goes_back_to_its_own_queue(letters, replay, queues):
    await letters.arrive(messages.encode_expire([]), queue=ORDERS_EXPIRE)

    assert await replay((await letters.all())[0]) is Resolution.REPLAYED

    assert len(await queues.take_all(ORDERS_EXPIRE)) == 1


async def test_F20_a_second_replay_sends_nothing(open_sale, shop, letters, replay, queues):
    sale = await open_sale()
    letter = await letters.naming(shop.wish(sale, "ann"))

    resolutions = await asyncio.gather(replay(letter), replay(letter))

    assert sorted(resolutions) == [Resolution.NOT_OPEN, Resolution.REPLAYED]
    assert await replay(letter) is Resolution.NOT_OPEN
    assert len(await queues.take_all(ORDERS_PLACE)) == 1


async def test_F20_a_crash_after_the_publish_leaves_it_open_and_it_is_ordered_once(
    open_sale, shop, letters, replay, place, crash_before_commit, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)

    with pytest.raises(crash_before_commit):
        await replay(letter)
    assert await letters.states() == ["open"]
    assert await letters.audited("dead.replay") == []
    assert await replay(letter) is Resolution.REPLAYED
    await place(2)

    assert await shop.states(sale, [ann]) == ["pending"]
    await assert_balanced(sale)


class FailingPublisher:
    """A publisher whose broker is unavailable, or that does something before it confirms."""

    def __init__(self, before_confirm=None):
        self._before_confirm = before_confirm

    async def publish(self, queue, body, headers=None):
        if self._before_confirm is None:
            raise Unavailable
        await self._before_confirm()


async def test_F13_a_letter_that_the_broker_did_not_confirm_stays_open(letters, replay):
    await letters.arrive(b"x")
    (letter,) = await letters.all()

    with pytest.raises(Unavailable):
        await replay(letter, by=FailingPublisher())

    assert await letters.all() == [letter]


async def test_F13_a_message_that_dies_before_its_replay_is_committed_is_not_lost(
    letters, replay, blocked, eventually
):
    """Its consumer is faster than our commit: the letter must be open in the end."""
    await letters.arrive(b"x", {"x-last-failed-ms": 1})
    (letter,) = await letters.all()
    dying = []

    async def dies_at_once():
        arriving = letters.arrive(b"x", {"x-last-failed-ms": 2})
        dying.append(asyncio.create_task(arriving))
        await eventually(blocked, "the arrival waits for the replay")

    assert await replay(letter, by=FailingPublisher(dies_at_once)) is Resolution.REPLAYED
    await dying[0]

    (again,) = await letters.all()
    assert (again.state, again.replays, again.deaths) == ("open", 1, 2)


async def test_F23_after_so_many_replays_it_takes_force(letters, replay, queues):
    for number in range(REPLAYS_MAX):
        await letters.arrive(b"x", {"x-last-failed-ms": number})
        (letter,) = await letters.all()
        assert await replay(letter) is Resolution.REPLAYED
    await letters.arrive(b"x")

    assert await replay(letter) is Resolution.TOO_OFTEN
    assert len(await queues.take_all(ORDERS_PLACE)) == REPLAYS_MAX
    assert await letters.states() == ["open"]
    assert await replay(letter, force=True) is Resolution.REPLAYED


async def test_F23_a_letter_of_which_only_the_beginning_was_kept_stays_open(
    letters, replay, queues
):
    await letters.arrive(b"x" * (BODY_BYTES_MAX + 1))
    (letter,) = await letters.all()

    assert await replay(letter, force=True) is Resolution.TOO_LARGE
    assert await queues.take_all(ORDERS_PLACE) == []
    assert await letters.states() == ["open"]


async def test_a_letter_of_a_queue_that_is_no_more_stays_open(letters, replay, queues):
    await letters.arrive(b"x", queue="orders-of-old")
    (letter,) = await letters.all()

    assert await replay(letter) is Resolution.NO_QUEUE
    assert await letters.states() == ["open"]
