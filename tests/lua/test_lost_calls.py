"""grab.lua: a process whose acknowledged calls Redis has lost fences the sale.

Promoting a replica that lagged leaves the hash of the sale as it was some calls ago.
"""

from __future__ import annotations

import pytest

from seckill.adapters import redis_keys
from seckill.inventory.reservations import CallCount, Grab, GrabReply, Verdict
from seckill.order_ids import new_order_id
from tests.lua.shop import EPOCH, NUMBER, Shop


async def take(shop: Shop, count: CallCount, *buyers: str) -> GrabReply:
    grabs = [Grab(new_order_id(NUMBER), buyer, 1) for buyer in buyers]
    deadline_ms = await shop.scripts.now_ms() + 60_000
    reply = await shop.scripts.grab(
        shop.sale_id, grabs, deadline_ms=deadline_ms, outbox_max=100, count=count
    )
    count.note(reply)
    return reply


async def state_of(shop: Shop) -> bytes | None:
    return await shop.redis.hget(redis_keys.sale(shop.sale_id), "state")


async def rewind(shop: Shop, count: CallCount, calls: int) -> None:
    await shop.set(**{f"calls:{count.caller}": calls})


async def test_calls_that_took_something_are_counted(shop: Shop) -> None:
    await shop.open(9)
    mine, other = CallCount("mine"), CallCount("other")
    for buyers in (("ann", "bob"), ("ann",), ("eve",)):
        assert not (await take(shop, mine, *buyers)).lost_calls
    await take(shop, other, "joe")
    assert (mine.seen, other.seen, mine.epoch) == (2, 1, EPOCH)
    assert await shop.redis.hget(redis_keys.sale(shop.sale_id), "calls:mine") == b"2"


async def test_a_lost_call_fences_the_sale_whatever_others_took_since(shop: Shop) -> None:
    await shop.open(9)
    mine, other = CallCount("mine"), CallCount("other")
    for buyer in ("ann", "bob", "eve"):
        await take(shop, mine, buyer)
    await rewind(shop, mine, 1)
    assert (await take(shop, other, "joe")).verdicts == [Verdict.ACCEPTED]
    reply = await take(shop, mine, "sue")
    assert (reply.verdicts, reply.lost_calls) == ([Verdict.UNAVAILABLE], 2)
    assert await state_of(shop) == b"fenced"


async def test_a_call_without_a_reply_is_no_lost_call(shop: Shop) -> None:
    await shop.open(9)
    mine = CallCount("mine")
    await take(shop, mine, "ann")
    await rewind(shop, mine, 2)
    assert (await take(shop, mine, "bob")).verdicts == [Verdict.ACCEPTED]


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
async def test_another_epoch_counts_anew(shop: Shop, epoch: int) -> None:
    await shop.open(9)
    mine = CallCount("mine")
    mine.epoch, mine.seen = epoch, 5
    assert (await take(shop, mine, "ann")).verdicts == [Verdict.ACCEPTED]
