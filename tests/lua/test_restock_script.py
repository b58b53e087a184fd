"""restock.lua: a step from one total to another is taken once, and never out of a buyer's hands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seckill.adapters import redis_keys
from seckill.inventory.reservations import RestockOutcome, RestockReply
from tests.lua.shop import EPOCH, Shop


async def step(shop: Shop, before: int, after: int, *, epoch: int = EPOCH) -> RestockReply:
    return await shop.scripts.restock(shop.sale_id, epoch, before, after)


async def unchanged(shop: Shop, before: int, after: int, **options: int) -> RestockReply:
    """Take a step that leaves everything as it is, and return the answer."""
    dump = await shop.dump()
    reply = await step(shop, before, after, **options)
    assert await shop.dump() == dump
    return reply


@pytest.mark.parametrize(("after", "left"), [(8, 6), (3, 1), (2, 0)])
async def test_stock_changes_with_the_total_once(shop: Shop, after: int, left: int) -> None:
    await shop.open(5)
    await shop.grab("ann", "bob")
    assert await step(shop, 5, after) == (RestockOutcome.OK, left)
    assert (await shop.stock(), await shop.field("total")) == (left, str(after))
    await shop.assert_conserved(after)
    assert await unchanged(shop, 5, after) == (RestockOutcome.OK, left)


async def test_held_units_are_not_taken(shop: Shop) -> None:
    await shop.open(5)
    await shop.grab("ann", "bob")
    assert await unchanged(shop, 5, 1) == (RestockOutcome.SHORT, 3)


async def test_a_step_that_comes_late_finds_another_total(shop: Shop) -> None:
    await shop.open(5)
    await step(shop, 5, 8)
    await step(shop, 8, 6)
    assert await unchanged(shop, 5, 8) == (RestockOutcome.MOVED, 6)


@pytest.mark.parametrize("after", [5, 7, 4])
async def test_a_sale_without_a_total_has_the_one_before(shop: Shop, after: int) -> None:
    """A version that wrote none opened it, and is older than restocks."""
    await shop.open(5)
    await shop.redis.hdel(redis_keys.sale(shop.sale_id), "total")
    assert await step(shop, 5, after) == (RestockOutcome.OK, after)
    assert (await shop.stock(), await shop.field("total")) == (after, str(after))


async def test_a_sale_that_is_fenced_or_of_another_epoch_is_for_later(shop: Shop) -> None:
    await shop.open(5)
    assert await unchanged(shop, 5, 8, epoch=EPOCH + 1) == (RestockOutcome.LATER, 0)
    assert await unchanged(shop, 5, 8, epoch=EPOCH - 1) == (RestockOutcome.LATER, 0)
    await shop.set(state="fenced")
    assert await unchanged(shop, 5, 8) == (RestockOutcome.LATER, 0)


@pytest.mark.parametrize("lost", [redis_keys.stock, redis_keys.sale])
async def test_F8_nothing_is_made_of_a_sale_that_is_lost(
    shop: Shop, lost: Callable[[str], str]
) -> None:
    await shop.open(5)
    await shop.redis.delete(lost(shop.sale_id))
    assert await unchanged(shop, 5, 8) == (RestockOutcome.LATER, 0)


@pytest.mark.parametrize("state", ["paused", "closed"])
async def test_a_sale_that_rests_can_be_restocked(shop: Shop, state: str) -> None:
    await shop.open(5)
    await shop.set(state=state)
    assert await step(shop, 5, 6) == (RestockOutcome.OK, 6)
    assert await shop.field("state") == state


async def test_restocking_a_sold_out_sale_sells_again(shop: Shop) -> None:
    await shop.open(1)
    assert await shop.outcomes("ann", "bob") == "AS"
    await step(shop, 1, 2)
    assert await shop.outcomes("bob", "cat") == "AS"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("grab"), st.integers(1, 3)),
            st.tuples(st.just("give back"), st.integers(0, 9)),
            st.tuples(st.just("restock"), st.integers(1, 12)),
            st.tuples(st.just("late"), st.integers(1, 12)),
        ),
        max_size=25,
    )
)
async def test_the_books_add_up_whatever_happens_in_between(
    make_shop: Callable[[], Awaitable[Shop]], moves: list[tuple[str, int]]
) -> None:
    shop = await make_shop()
    await shop.open(6, per_order_max=3)
    total = 6
    for number, (move, units) in enumerate(moves):
        if move == "grab":
            await shop.grab((f"b{number}", units))
        elif move == "give back":
            if f"b{units}" in await shop.holders():
                await shop.give_back(await shop.return_of(f"b{units}"))
        elif move == "restock":
            if (await step(shop, total, units)).outcome is RestockOutcome.OK:
                total = units
        elif total not in (units, units + 1):
            assert (await unchanged(shop, units, units + 1)).outcome is RestockOutcome.MOVED
        await shop.assert_conserved(total)
