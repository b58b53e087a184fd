"""grab.lua: settled entries are dropped, and calls that must not touch anything touch nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seckill.adapters import redis_keys
from seckill.errors import Unavailable
from seckill.inventory.reservations import (
    GrabReply,
    Verdict,
)
from tests.lua.shop import HOUR_MS, Shop, buyers


async def test_settled_entries_are_dropped_and_no_others(shop: Shop) -> None:
    await shop.open(9)
    ids = [(await shop.grab(name)).outbox_id for name in ("ann", "bob", "cid")]
    reply = await shop.grab("dan", settled=[ids[0], ids[2], "1-1"])
    assert [entry.outbox_id for entry in await shop.outbox()] == [ids[1], reply.outbox_id]
    await shop.grab("dan", settled=ids)
    assert buyers(await shop.outbox()) == [["dan"]]


@pytest.mark.parametrize("state", ["open", "paused", "closed"])
async def test_settled_entries_are_dropped_whatever_the_state(shop: Shop, state: str) -> None:
    await shop.open(1)
    outbox_id = (await shop.grab("ann")).outbox_id
    await shop.set(state=state)
    await shop.grab("bob", settled=[outbox_id])
    assert await shop.outbox() == []


# Calls that touch nothing.


def untouched(reply: GrabReply) -> bool:
    return reply.verdicts == [Verdict.UNAVAILABLE] * 2 and reply.outbox_id == ""


async def test_past_its_deadline_a_call_touches_nothing(shop: Shop) -> None:
    await shop.open(9)
    outbox_id = (await shop.grab("old")).outbox_id
    before = await shop.dump()
    assert untouched(await shop.grab("ann", "old", settled=[outbox_id], wait_ms=-1))
    assert await shop.dump() == before


@pytest.mark.parametrize("lost", [redis_keys.stock, redis_keys.sale], ids=["stock", "sale"])
async def test_a_sale_that_redis_has_lost_is_unavailable_not_sold_out(
    shop: Shop, lost: Callable[[str], str]
) -> None:
    await shop.open(9)
    outbox_id = (await shop.grab("old")).outbox_id
    await shop.redis.delete(lost(shop.sale_id))
    before = await shop.dump()
    assert untouched(await shop.grab("ann", "old", settled=[outbox_id]))
    assert await shop.dump() == before


async def test_an_empty_redis_stays_empty(shop: Shop) -> None:
    assert untouched(await shop.grab("ann", "bob"))
    assert await shop.dump() == {}


async def test_a_fenced_sale_is_unavailable_even_to_holders(shop: Shop) -> None:
    await shop.open(9)
    outbox_id = (await shop.grab("old")).outbox_id
    await shop.set(state="fenced")
    before = await shop.dump()
    assert untouched(await shop.grab("ann", "old", settled=[outbox_id]))
    assert await shop.dump() == before


async def test_every_reply_has_the_time_of_redis(shop: Shop) -> None:
    for prepare in (None, shop.open(1), shop.set(state="fenced")):
        if prepare:
            await prepare
        for wait_ms in (HOUR_MS, -1):
            before = await shop.scripts.now_ms()
            reply = await shop.grab("ann", wait_ms=wait_ms)
            assert before <= reply.now_ms <= await shop.scripts.now_ms()


@pytest.mark.parametrize("broken", ["sale", "holders", "outbox", "stock"])
async def test_a_script_that_fails_has_written_nothing(shop: Shop, broken: str) -> None:
    await shop.open(9)
    key = getattr(redis_keys, broken)(shop.sale_id)
    await shop.redis.delete(key)
    await shop.redis.rpush(key, "a key of a wrong type")
    before = await shop.dump()
    with pytest.raises(Unavailable):
        await shop.grab("ann")
    assert await shop.dump() == before
