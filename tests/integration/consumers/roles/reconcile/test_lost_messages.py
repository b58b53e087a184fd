"""reconcile: a holder without a row has lost its message, and its grab is published again."""

from __future__ import annotations

import pytest

from seckill import messages
from seckill.adapters import redis_keys, topology
from seckill.consistency import diff, repair
from seckill.consistency.diff import RepairAction
from seckill.dead_letters.store import open_order_ids
from seckill.errors import Unavailable


async def test_F13_a_grab_whose_message_was_lost_is_published_again(
    open_sale, shop, all_are_old, found_by, queues, audited
):
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann")

    assert await found_by(sale) == [("republish", "ann")]

    (message,) = await queues.take(topology.ORDERS_PLACE, 1)
    placing = messages.decode_place(message.body)
    assert (placing.sale_id, placing.epoch, placing.outbox_mark) == (sale.sale_id, 1, 0)
    assert placing.grabs == [(grab.order_id, "ann", 1)]
    assert await audited(sale) == [
        ("reconcile", "reconcile.republish", {"orders": [grab.order_id], "units": 1})
    ]


async def test_a_young_holder_is_on_its_way_and_left_alone(open_sale, shop, found_by, queues):
    sale = await open_sale()
    await shop.grab(sale, "ann")
    assert await found_by(sale, times=3) == []
    assert await queues.take_all(topology.ORDERS_PLACE) == []


async def test_F24_nothing_is_published_while_the_queue_has_work(
    open_sale, shop, all_are_old, found_by, make_role, queues
):
    """Consumers that are down for an hour find one more copy, not one for each comparison."""
    sale = await open_sale()
    await shop.grab(sale, "ann")
    await found_by(sale, times=9, role=make_role())
    assert len(await queues.take_all(topology.ORDERS_PLACE)) == 1


async def test_F13_what_an_emptied_broker_lost_is_published_in_one_pass(
    open_sale, shop, all_are_old, found_by, queues, monkeypatch
):
    monkeypatch.setattr(repair, "CALL_MAX", 2)
    sale = await open_sale()
    await shop.grab(sale, *"abcde")
    await found_by(sale)
    taken = [
        messages.decode_place(m.body).grabs for m in await queues.take(topology.ORDERS_PLACE, 3)
    ]
    assert sorted(grab.buyer_id for grabs in taken for grab in grabs) == list("abcde")


async def test_a_grab_on_an_open_letter_is_left_to_the_operator(
    open_sale, shop, all_are_old, found_by, db, monkeypatch
):
    sale = await open_sale()
    ann, _ = await shop.grab(sale, "ann", "bob")

    async def named(*_):
        return await open_order_ids(db, sale.sale_id) | {ann.order_id}

    monkeypatch.setattr(diff, "open_order_ids", named)
    assert await found_by(sale) == [("republish", "bob")]


async def test_a_broker_that_does_not_confirm_leaves_everything_as_it_is(
    open_sale, shop, all_are_old, make_role, audited
):
    sale = await open_sale()
    await shop.grab(sale, "ann")

    class Unconfirming:
        async def publish(self, *_):
            raise Unavailable("no confirm")

    role = make_role(publisher=Unconfirming())
    await role.compare()
    with pytest.raises(Unavailable):
        await role.compare()
    assert await audited(sale) == []


async def test_nothing_is_published_after_a_rebuild(
    open_sale, shop, store, queues, all_are_old, differences_of, repair_all
):
    sale = await open_sale()
    await shop.grab(sale, "ann")
    differences = await differences_of(sale)
    await store.hset(redis_keys.sale(sale.sale_id), "epoch", 2)

    done = await repair_all(sale, differences)
    assert done[RepairAction.REPUBLISH] == 0
    assert await queues.take_all(topology.ORDERS_PLACE) == []


async def test_a_grab_that_becomes_a_letter_after_the_comparison_is_not_published_again(
    open_sale, shop, queues, letters, differences_of, repair_all
):
    sale = await open_sale()
    ann, bob = await shop.grab(sale, "ann", "bob")
    differences = await differences_of(sale)

    async def becomes_a_letter():
        await letters.naming(ann)
        return 0

    done = await repair_all(sale, differences, count_waiting=becomes_a_letter)
    assert done[RepairAction.REPUBLISH] == 1
    (message,) = await queues.take(topology.ORDERS_PLACE, 1)
    assert messages.decode_place(message.body).grabs == [(bob.order_id, "bob", 1)]


async def test_a_lost_grab_waits_for_other_messages_no_longer_than_all_retries_take(
    open_sale, shop, found_by, all_are_old, publisher, queues, make_role, monkeypatch
):
    """Its own message is not among them."""
    sale = await open_sale()
    await shop.grab(sale, "ann")
    await publisher.publish(topology.dead(topology.ORDERS_PLACE), b"something else")
    role = make_role()

    async def published(*, retries_ms):
        monkeypatch.setattr(repair, "RETRIES_MS", retries_ms)
        await found_by(sale, role=role)
        return await queues.size(topology.ORDERS_PLACE)

    assert await published(retries_ms=10**9) == 0
    assert await published(retries_ms=0) == 1
    assert await published(retries_ms=10**9) == 1, "not again and again"
