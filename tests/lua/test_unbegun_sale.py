"""change_terms.lua and remove_sale.lua: an open sale changes and goes until it begins."""

from __future__ import annotations

import pytest

from seckill.adapters import redis_keys
from seckill.inventory.reservations import ChangeOutcome, SaleTerms
from tests.lua.shop import EPOCH, HOUR_MS, NUMBER, Shop


async def opens_in(shop: Shop, milliseconds: int) -> int:
    return await shop.scripts.now_ms() + milliseconds


def terms(opens_at_ms: int, *, epoch: int = EPOCH) -> SaleTerms:
    return SaleTerms(NUMBER, 3, 2, epoch, opens_at_ms, opens_at_ms + HOUR_MS)


async def test_the_window_moves_until_the_sale_begins(shop: Shop) -> None:
    await shop.open(3, opens_at_ms=await opens_in(shop, HOUR_MS))
    later = terms(await opens_in(shop, 2 * HOUR_MS))
    for _ in range(2):
        assert await shop.scripts.change_terms(shop.sale_id, later) is ChangeOutcome.OK
    assert await shop.field("opens_at_ms") == str(later.opens_at_ms)
    assert await shop.field("closes_at_ms") == str(later.closes_at_ms)
    assert await shop.field("per_order_max") == "2"
    assert await shop.stock() == 3

    begun = terms(1)  # in 1970
    for _ in range(2):  # a repeat after a crash is right, though the sale has begun by it
        assert await shop.scripts.change_terms(shop.sale_id, begun) is ChangeOutcome.OK
    dump = await shop.dump()
    assert await shop.scripts.change_terms(shop.sale_id, later) is ChangeOutcome.BEGUN
    assert await shop.scripts.remove_sale(shop.sale_id, was_opened=True) is ChangeOutcome.BEGUN
    assert await shop.dump() == dump


@pytest.mark.parametrize("state", ["fenced", "created", "epoch", "missing"])
async def test_a_sale_that_is_not_whole_is_for_later(shop: Shop, state: str) -> None:
    await shop.open(3, opens_at_ms=await opens_in(shop, HOUR_MS))
    if state == "missing":
        await shop.redis.unlink(redis_keys.stock(shop.sale_id))
    elif state != "epoch":
        await shop.set(state=state)
    wanted = terms(await opens_in(shop, 2 * HOUR_MS), epoch=EPOCH + (state == "epoch"))
    dump = await shop.dump()
    assert await shop.scripts.change_terms(shop.sale_id, wanted) is ChangeOutcome.LATER
    assert await shop.dump() == dump


async def test_a_sale_that_has_not_begun_is_removed_with_all_its_keys(shop: Shop) -> None:
    await shop.open(3, opens_at_ms=await opens_in(shop, HOUR_MS))
    alone = await shop.scripts.remove_sale(shop.sale_id, was_opened=False)
    assert alone is ChangeOutcome.OPENED
    await shop.set(state="fenced")
    assert await shop.scripts.remove_sale(shop.sale_id, was_opened=True) is ChangeOutcome.LATER
    await shop.set(state="open")
    for _ in range(2):
        assert await shop.scripts.remove_sale(shop.sale_id, was_opened=True) is ChangeOutcome.OK
    assert await shop.dump() == {}
