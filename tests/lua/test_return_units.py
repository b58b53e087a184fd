"""return_units.lua: a holder and its units leave together, once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seckill.adapters import redis_keys
from seckill.errors import Unavailable
from seckill.inventory.reservations import CALL_MAX, Holding, UnitReturn
from seckill.order_ids import new_order_id
from tests.lua.shop import EPOCH, NUMBER, Shop

LATER = [b"LATER"]


async def test_units_come_back_with_their_holder(shop: Shop) -> None:
    await shop.open(5, per_order_max=2)
    await shop.grab(("ann", 2), ("bob", 1))
    assert await shop.give_back(await shop.return_of("ann")) == [b"OK", 4, b"R"]
    assert await shop.stock() == 4
    assert list(await shop.holders()) == ["bob"]
    await shop.assert_conserved(5)


async def test_F6_a_second_return_adds_nothing(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann")
    ann = await shop.return_of("ann")
    await shop.give_back(ann)
    before = await shop.dump()
    assert await shop.give_back(ann) == [b"OK", 5, b"G"]
    assert await shop.dump() == before


async def test_F6_one_holder_named_twice_in_a_call_counts_once(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann", "bob")
    ann, bob = await shop.return_of("ann"), await shop.return_of("bob")
    assert await shop.give_back(ann, bob, ann) == [b"OK", 5, b"RRG"]
    await shop.assert_conserved(5)


async def test_F6_a_late_return_leaves_the_next_order_of_the_buyer_alone(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann")
    first = await shop.return_of("ann")
    await shop.give_back(first)
    await shop.grab("ann")
    before = await shop.dump()
    assert await shop.give_back(first) == [b"OK", 4, b"G"]
    assert await shop.dump() == before


async def test_a_holder_of_another_quantity_is_not_the_same_holder(shop: Shop) -> None:
    await shop.open(5, per_order_max=2)
    await shop.grab(("ann", 1))
    order_id = (await shop.holders())["ann"].order_id
    assert await shop.give_back(UnitReturn("ann", f"{order_id}:2", 2)) == [b"OK", 4, b"G"]
    await shop.assert_conserved(5)


async def test_units_that_were_never_frozen_become_a_correction(shop: Shop) -> None:
    await shop.open(5, per_order_max=3)
    await shop.grab(("ann", 3), ("bob", 2))
    returns = [await shop.return_of("ann", units=1), await shop.return_of("bob", units=0)]
    assert await shop.give_back(*returns) == [b"OK", 1, b"RR"]
    assert await shop.field("corrections") == "4"
    await shop.assert_conserved(5)
    assert await shop.give_back(*returns) == [b"OK", 1, b"GG"]
    assert await shop.field("corrections") == "4"


async def test_a_full_call_comes_back_at_once(shop: Shop) -> None:
    await shop.open(1000)
    names = [f"b{n}" for n in range(CALL_MAX)]
    await shop.grab(*names)
    holders = await shop.holders()
    returns = [UnitReturn(name, str(holders[name]), 1) for name in names]
    assert await shop.give_back(*returns) == [b"OK", 1000, b"R" * CALL_MAX]


@pytest.mark.parametrize("state", ["open", "paused", "closed"])
async def test_units_come_back_whatever_the_state(shop: Shop, state: str) -> None:
    await shop.open(5)
    await shop.grab("ann")
    await shop.set(state=state)
    assert await shop.give_back(await shop.return_of("ann")) == [b"OK", 5, b"R"]


async def test_F16_a_sale_that_is_fenced_says_later_and_keeps_the_holder(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann")
    ann = await shop.return_of("ann")
    await shop.set(state="fenced")
    before = await shop.dump()
    assert await shop.give_back(ann) == LATER
    assert await shop.dump() == before
    await shop.set(state="open")
    assert await shop.give_back(ann) == [b"OK", 5, b"R"]


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
async def test_another_epoch_says_later(shop: Shop, epoch: int) -> None:
    await shop.open(5)
    await shop.grab("ann")
    before = await shop.dump()
    assert await shop.give_back(await shop.return_of("ann"), epoch=epoch) == LATER
    assert await shop.dump() == before


@pytest.mark.parametrize(
    "lost",
    [
        [redis_keys.stock],
        [redis_keys.sale],
        [redis_keys.stock, redis_keys.sale, redis_keys.holders],
    ],
    ids=len,
)
async def test_a_sale_that_redis_has_lost_says_later_and_no_key_is_made(
    shop: Shop, lost: list[Callable[[str], str]]
) -> None:
    await shop.open(5)
    await shop.grab("ann")
    ann = await shop.return_of("ann")
    await shop.redis.delete(*[key(shop.sale_id) for key in lost])
    before = await shop.dump()
    assert await shop.give_back(ann) == LATER
    assert await shop.dump() == before


async def test_holders_lost_alone_are_gone_and_no_key_is_made(shop: Shop) -> None:
    await shop.open(5)
    before = await shop.dump()
    stranger = UnitReturn("ann", str(Holding(new_order_id(NUMBER), 1)), 1)
    assert await shop.give_back(stranger) == [b"OK", 5, b"G"]
    assert await shop.dump() == before


async def test_done_and_later_reach_the_caller(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann")
    ann = await shop.return_of("ann")
    assert not await shop.scripts.return_units(shop.sale_id, EPOCH + 1, [ann])
    assert await shop.scripts.return_units(shop.sale_id, EPOCH, [ann])
    assert await shop.scripts.return_units(shop.sale_id, EPOCH, [ann])
    await shop.assert_conserved(5)


@pytest.mark.parametrize("broken", ["sale", "holders", "stock"])
async def test_a_script_that_fails_has_written_nothing(shop: Shop, broken: str) -> None:
    await shop.open(5)
    await shop.grab("ann")
    ann = await shop.return_of("ann")
    key = getattr(redis_keys, broken)(shop.sale_id)
    await shop.redis.delete(key)
    await shop.redis.rpush(key, "a key of a wrong type")
    before = await shop.dump()
    with pytest.raises(Unavailable):
        await shop.scripts.return_units(shop.sale_id, EPOCH, [ann])
    assert await shop.dump() == before
