"""open_sale.lua and set_sale_state.lua: stock is written once, and only where nothing was."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seckill.adapters import redis_keys
from seckill.inventory.reservations import SaleTerms
from tests.lua.shop import EPOCH, NUMBER, Shop

TERMS = SaleTerms(NUMBER, stock=5, per_order_max=2, epoch=EPOCH, opens_at_ms=10, closes_at_ms=2**52)


async def opened(shop: Shop, terms: SaleTerms = TERMS) -> bool:
    return await shop.scripts.open_sale(shop.sale_id, terms)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_new_sale_opens_with_its_terms(shop: Shop, announced: bool) -> None:
    if announced:
        assert await shop.scripts.announce(shop.sale_id, TERMS)
    assert await opened(shop)
    assert await shop.stock() == 5
    assert await shop.redis.hgetall(redis_keys.sale(shop.sale_id)) == {
        b"state": b"open",
        b"opens_at_ms": b"10",
        b"closes_at_ms": b"%d" % 2**52,
        b"per_order_max": b"2",
        b"number": b"%d" % NUMBER,
        b"epoch": b"%d" % EPOCH,
        b"corrections": b"0",
        b"total": b"5",
    }


async def test_no_key_of_a_sale_expires(shop: Shop) -> None:
    """F4: a counter that expires is reseeded in mid-sale."""
    await opened(shop)
    await shop.grab("ann")
    names = [key async for key in shop.redis.scan_iter()]
    assert len(names) == 4
    assert [await shop.redis.ttl(name) for name in names] == [-1] * 4


@pytest.mark.parametrize("state", ["open", "paused", "closed"])
async def test_F3_opening_again_keeps_the_stock(shop: Shop, state: str) -> None:
    await opened(shop)
    await shop.grab(("ann", 2))
    await shop.set(state=state)
    assert await opened(shop)
    assert await shop.stock() == 3
    assert await shop.field("state") == "open"
    await shop.assert_conserved(5)


async def test_opening_again_at_once_changes_nothing(shop: Shop) -> None:
    await opened(shop)
    await shop.grab("ann")
    before = await shop.dump()
    assert await opened(shop)
    assert await shop.dump() == before


async def conflicts(shop: Shop, terms: SaleTerms = TERMS) -> bool:
    """Return whether opening is refused, and leaves everything as it is."""
    before = await shop.dump()
    return not await opened(shop, terms) and await shop.dump() == before


async def test_stock_without_a_sale_is_a_conflict(shop: Shop) -> None:
    await shop.redis.set(redis_keys.stock(shop.sale_id), 2)
    assert await conflicts(shop)
    await shop.scripts.announce(shop.sale_id, TERMS)
    assert await conflicts(shop)


async def test_holders_without_a_sale_are_a_conflict(shop: Shop) -> None:
    await shop.redis.hset(redis_keys.holders(shop.sale_id), "ann", "x:1")
    assert await conflicts(shop)


@pytest.mark.parametrize("state", ["open", "paused", "closed"])
async def test_a_sale_that_lost_its_stock_is_not_given_new_stock(shop: Shop, state: str) -> None:
    await opened(shop)
    await shop.redis.delete(redis_keys.stock(shop.sale_id))
    await shop.set(state=state)
    assert await conflicts(shop)


async def test_a_fenced_sale_is_not_opened(shop: Shop) -> None:
    await opened(shop)
    await shop.set(state="fenced")
    assert await conflicts(shop)


@pytest.mark.parametrize("change", [{"number": NUMBER + 1}, {"epoch": EPOCH + 1}], ids=str)
async def test_a_sale_of_another_number_or_epoch_is_a_conflict(
    shop: Shop, change: dict[str, int]
) -> None:
    """PostgreSQL was emptied and made the sale anew; Redis still sells the old one."""
    await opened(shop)
    await shop.grab("ann")
    fields = {"number": NUMBER, "epoch": EPOCH} | change
    assert await conflicts(shop, SaleTerms(stock=5, per_order_max=2, **fields))


async def test_announcing_writes_no_stock_and_never_over_a_sale(shop: Shop) -> None:
    assert await shop.scripts.announce(shop.sale_id, TERMS)
    assert await shop.stock() is None
    before = await shop.dump()
    # A creation that broke off after this is made again: it holds nothing yet.
    assert await shop.scripts.announce(shop.sale_id, TERMS)
    assert await shop.dump() == before
    await opened(shop)
    await shop.grab("ann")
    assert before != (before := await shop.dump())
    assert not await shop.scripts.announce(shop.sale_id, TERMS)
    assert await shop.dump() == before


async def test_a_sale_closes_and_opens_again(shop: Shop) -> None:
    await opened(shop)
    assert await shop.scripts.set_sale_state(shop.sale_id, "closed")
    assert await shop.outcomes("ann") == "C"
    assert await shop.scripts.set_sale_state(shop.sale_id, "open")
    assert await shop.outcomes("ann") == "A"


async def test_a_fenced_sale_stays_fenced(shop: Shop) -> None:
    await opened(shop)
    await shop.set(state="fenced")
    before = await shop.dump()
    assert not await shop.scripts.set_sale_state(shop.sale_id, "open")
    assert await shop.dump() == before


@pytest.mark.parametrize(
    "lost", [[], [redis_keys.stock], [redis_keys.sale]], ids=["never", "stock", "sale"]
)
async def test_the_state_of_a_missing_sale_is_not_made(
    shop: Shop, lost: list[Callable[[str], str]]
) -> None:
    if lost:
        await opened(shop)
        await shop.redis.delete(*[key(shop.sale_id) for key in lost])
    before = await shop.dump()
    assert not await shop.scripts.set_sale_state(shop.sale_id, "open")
    assert await shop.dump() == before
