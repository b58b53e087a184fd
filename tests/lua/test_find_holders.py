"""find_holders.lua: holders are found whatever the gate says, and nothing is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from seckill.adapters import redis_keys
from seckill.inventory.reservations import CALL_MAX, HoldersReply, Verdict
from tests.lua.shop import HOUR_MS, Shop


async def test_each_buyer_gets_his_own_holding_in_order(shop: Shop) -> None:
    await shop.open(5, per_order_max=2)
    await shop.grab("ann", ("bob", 2))
    held = await shop.holders()
    found = await shop.scripts.find_holders(shop.sale_id, ["bob", "stranger", "ann", "bob"])
    assert found == HoldersReply(Verdict.ACCEPTED, 2, [held["bob"], None, held["ann"], held["bob"]])


@pytest.mark.parametrize(
    ("change", "letter"),
    [
        ({}, "S"),
        ({"state": "paused"}, "P"),
        ({"state": "closed"}, "C"),
        ({"closes_at_ms": 1}, "C"),
        ({"closes_at_ms": 1, "state": "paused"}, "C"),
        ({"state": "created"}, "N"),
        ({"opens_at_ms": 2**52, "state": "closed"}, "N"),
    ],
    ids=str,
)
async def test_the_verdict_is_what_a_grab_would_get(
    shop: Shop, change: Mapping[str, str | int], letter: str
) -> None:
    await shop.open(1)
    await shop.grab("ann")
    await shop.set(**change)
    before = await shop.dump()
    found = await shop.scripts.find_holders(shop.sale_id, ["ann", "bob"])
    assert await shop.dump() == before
    assert (found.verdict, found.left) == (letter, 0)
    assert found.holdings == [(await shop.holders())["ann"], None]
    assert await shop.outcomes("bob") == letter


async def test_a_sale_that_was_only_announced_is_not_open(shop: Shop) -> None:
    await shop.set(state="created", opens_at_ms=0, closes_at_ms=0)
    found = await shop.scripts.find_holders(shop.sale_id, ["ann"])
    assert found == HoldersReply(Verdict.NOT_OPEN, 0, [None])


async def test_F15_units_that_came_back_are_seen(shop: Shop) -> None:
    await shop.open(1)
    await shop.grab("ann")
    await shop.give_back(await shop.return_of("ann"))
    found = await shop.scripts.find_holders(shop.sale_id, ["bob"])
    assert (found.verdict, found.left) == (Verdict.ACCEPTED, 1)


@pytest.mark.parametrize("lost", [redis_keys.stock, redis_keys.sale], ids=["stock", "sale"])
async def test_a_sale_that_redis_has_lost_is_unavailable_not_sold_out(
    shop: Shop, lost: Callable[[str], str]
) -> None:
    await shop.open(0, closes_at_ms=await shop.scripts.now_ms() + HOUR_MS)
    await shop.redis.delete(lost(shop.sale_id))
    found = await shop.scripts.find_holders(shop.sale_id, ["ann", "bob"])
    assert found == HoldersReply(Verdict.UNAVAILABLE, 0, [None, None])


async def test_a_fenced_sale_is_unavailable(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann")
    await shop.set(state="fenced")
    found = await shop.scripts.find_holders(shop.sale_id, ["ann"])
    assert found == HoldersReply(Verdict.UNAVAILABLE, 0, [None])


async def test_a_full_call_is_answered(shop: Shop) -> None:
    await shop.open(1000)
    names = [f"b{n}" for n in range(CALL_MAX)]
    await shop.grab(*names)
    held = await shop.holders()
    found = await shop.scripts.find_holders(shop.sale_id, names)
    assert found.holdings == [held[name] for name in names]
