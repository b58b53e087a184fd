"""add_missing_holders.lua: a live order gets its holder, and the sum stays what it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import lua
from seckill.adapters import redis_keys
from seckill.inventory.reservations import CALL_MAX, Holding
from seckill.order_ids import new_order_id
from tests.lua.shop import EPOCH, NUMBER, Shop


async def adopt(shop: Shop, *orders: tuple[str, str], epoch: int = EPOCH) -> list[Any]:
    script = lua.register(shop.redis, "add_missing_holders")
    names = [key(shop.sale_id) for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders)]
    reply: list[Any] = await script(keys=names, args=[epoch, msgspec.msgpack.encode(orders)])
    return reply


def order(units: int = 1) -> str:
    return str(Holding(new_order_id(NUMBER), units))


async def test_F8_an_order_takes_its_units_from_stock(shop: Shop) -> None:
    await shop.open(5)
    ann = order(2)
    assert await adopt(shop, ("ann", ann), ("bob", order())) == [b"OK", 2, b"AA"]
    assert (await shop.holders())["ann"] == Holding.parse(ann)
    await shop.assert_conserved(5)
    assert await shop.outcomes("ann", "cat") == "DA"


async def test_twice_is_once(shop: Shop) -> None:
    await shop.open(5)
    ann = order(2)
    await adopt(shop, ("ann", ann))
    before = await shop.dump()
    assert await adopt(shop, ("ann", ann)) == [b"OK", 3, b"H"]
    assert await shop.dump() == before


async def test_a_buyer_who_holds_something_keeps_that(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann")
    before = await shop.holders()
    assert await adopt(shop, ("ann", order())) == [b"OK", 4, b"H"]
    assert await shop.holders() == before


async def test_one_buyer_is_adopted_once_in_a_call(shop: Shop) -> None:
    await shop.open(5)
    assert await adopt(shop, ("ann", order()), ("ann", order())) == [b"OK", 4, b"AH"]
    await shop.assert_conserved(5)


async def test_F11_stock_stays_at_zero_and_the_rest_is_a_correction(shop: Shop) -> None:
    await shop.open(3)
    assert await adopt(shop, ("ann", order(2)), ("bob", order(2))) == [b"OK", 0, b"AA"]
    assert await shop.field("corrections") == "-1"
    await shop.assert_conserved(3)


async def test_a_full_call_is_adopted_at_once(shop: Shop) -> None:
    await shop.open(1000)
    assert (await adopt(shop, *[(f"b{n}", order()) for n in range(CALL_MAX)]))[1] == 488
    await shop.assert_conserved(1000)


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
async def test_another_epoch_says_later(shop: Shop, epoch: int) -> None:
    await shop.open(5)
    before = await shop.dump()
    assert await adopt(shop, ("ann", order()), epoch=epoch) == [b"LATER"]
    assert await shop.dump() == before


@pytest.mark.parametrize("lost", ["stock", "sale", "fenced"])
async def test_a_sale_that_needs_a_rebuild_says_later(shop: Shop, lost: str) -> None:
    await shop.open(5)
    if lost == "fenced":
        await shop.set(state="fenced")
    else:
        await shop.redis.delete(getattr(redis_keys, lost)(shop.sale_id))
    before = await shop.dump()
    assert await adopt(shop, ("ann", order())) == [b"LATER"]
    assert await shop.dump() == before


@pytest.mark.parametrize("broken", ["sale", "holders", "stock"])
async def test_a_script_that_fails_has_written_nothing(shop: Shop, broken: str) -> None:
    await shop.open(5)
    key = getattr(redis_keys, broken)(shop.sale_id)
    await shop.redis.delete(key)
    await shop.redis.rpush(key, "a key of a wrong type")
    before = await shop.dump()
    with pytest.raises(Exception, match="WRONGTYPE"):
        await adopt(shop, ("ann", order()))
    assert await shop.dump() == before
