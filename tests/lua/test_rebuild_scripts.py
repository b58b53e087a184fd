"""begin_rebuild, restore_holders, finish_rebuild: a sale is written anew, under one fence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import lua
from seckill.adapters import redis_keys
from seckill.inventory.reservations import Holding
from seckill.order_ids import new_order_id
from tests.lua.shop import EPOCH, NUMBER, Shop

OK, CONFLICT = [b"OK"], [b"CONFLICT"]
NEXT = EPOCH + 1
ANN = str(Holding(new_order_id(NUMBER), 2))


class Rebuild:
    """The three scripts on one sale."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def _call(self, name: str, names: list[str], args: list[Any]) -> list[Any]:
        made = [getattr(redis_keys, key)(self._shop.sale_id) for key in names]
        reply: list[Any] = await lua.register(self._shop.redis, name)(keys=made, args=args)
        return reply

    async def begin(self, epoch: int = NEXT) -> list[Any]:
        return await self._call("begin_rebuild", ["stock", "sale", "holders"], [epoch])

    async def holders(self, *pairs: str, epoch: int = NEXT) -> list[Any]:
        packed = msgspec.msgpack.encode(pairs)
        return await self._call("restore_holders", ["sale", "holders"], [epoch, packed])

    async def finish(
        self, *, stock: int | str = 3, held: int = 1, state: str = "open", epoch: int = NEXT
    ) -> list[Any]:
        args = [epoch, state, stock, held, 0, 0, 2, NUMBER, 5]
        return await self._call("finish_rebuild", ["stock", "sale", "holders"], args)


@pytest.fixture
def rebuild(shop: Shop) -> Rebuild:
    return Rebuild(shop)


async def test_F8_a_sale_is_written_anew(shop: Shop, rebuild: Rebuild) -> None:
    assert await rebuild.begin() == OK
    assert await rebuild.holders("ann", ANN) == OK
    assert await rebuild.finish() == OK
    await shop.assert_conserved(5)
    assert await shop.outcomes(("bob", 2), ("cat", 1), "dan") == "AAS"
    assert [await shop.field(name) for name in ("epoch", "total")] == [str(NEXT), "5"]


async def test_the_fence_stands_from_the_first_step_to_the_last(
    shop: Shop, rebuild: Rebuild
) -> None:
    await shop.open(5)
    await shop.grab("ann")
    ann = await shop.return_of("ann")
    for step in (rebuild.begin(), rebuild.holders("ann", ANN)):
        assert await step == OK
        assert await shop.outcomes("bob") == "U"
        assert await shop.give_back(ann) == [b"LATER"]
        assert await shop.give_back(ann, epoch=NEXT) == [b"LATER"]
    assert await rebuild.finish() == OK
    assert await shop.outcomes("bob") == "A"


async def test_what_the_old_life_held_is_gone_and_its_outbox_is_not(
    shop: Shop, rebuild: Rebuild
) -> None:
    await shop.open(5)
    await shop.grab("ann")
    await shop.set(corrections=2)
    await rebuild.begin()
    assert (await shop.stock(), await shop.holders()) == (None, {})
    assert await rebuild.finish(stock=5, held=0) == OK
    assert await shop.field("corrections") == "0"
    assert len(await shop.outbox()) == 1


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH])
async def test_an_epoch_that_has_passed_begins_nothing(
    shop: Shop, rebuild: Rebuild, epoch: int
) -> None:
    await shop.open(5)
    before = await shop.dump()
    assert await rebuild.begin(epoch) == CONFLICT
    assert await shop.dump() == before


async def test_F3_a_running_sale_takes_neither_holders_nor_stock(
    shop: Shop, rebuild: Rebuild
) -> None:
    await shop.open(5)
    before = await shop.dump()
    assert await rebuild.holders("ann", ANN, epoch=EPOCH) == CONFLICT
    assert await rebuild.finish(held=0, epoch=EPOCH) == CONFLICT
    assert await shop.dump() == before


async def test_an_overtaken_rebuild_writes_nothing(shop: Shop, rebuild: Rebuild) -> None:
    await rebuild.begin()
    await rebuild.begin(NEXT + 1)
    before = await shop.dump()
    assert await rebuild.begin() == CONFLICT
    assert await rebuild.holders("ann", ANN) == CONFLICT
    assert await rebuild.finish(held=0) == CONFLICT
    assert await shop.dump() == before


@pytest.mark.parametrize("held", [0, 2])
async def test_holders_that_are_missing_keep_the_fence(
    shop: Shop, rebuild: Rebuild, held: int
) -> None:
    await rebuild.begin()
    await rebuild.holders("ann", ANN)
    assert await rebuild.finish(held=held) == CONFLICT
    assert await shop.outcomes("bob") == "U"


async def test_the_fence_is_lifted_once(shop: Shop, rebuild: Rebuild) -> None:
    await rebuild.begin()
    await rebuild.finish(held=0)
    await shop.outcomes("ann")
    before = await shop.dump()
    assert await rebuild.finish(held=0) == CONFLICT
    assert await shop.dump() == before


async def test_a_sale_that_was_never_opened_gets_no_stock(shop: Shop, rebuild: Rebuild) -> None:
    await rebuild.begin()
    assert await rebuild.finish(stock="", held=0, state="created") == OK
    assert await shop.stock() is None
    assert await shop.outcomes("ann") == "N"
    await shop.open(5, epoch=NEXT)
    assert await shop.outcomes("ann") == "A"
