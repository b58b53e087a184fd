"""grab.lua: what is refused, and which reason comes first."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from seckill.inventory.reservations import (
    SaleTerms,
)
from tests.lua.shop import HOUR_MS, Shop


@pytest.mark.parametrize("state", ["created", "open", "paused", "closed"])
async def test_F37_before_the_window_every_grab_is_not_open(shop: Shop, state: str) -> None:
    await shop.open(0, opens_at_ms=await shop.scripts.now_ms() + HOUR_MS)
    await shop.set(state=state)
    before = await shop.dump()
    assert await shop.outcomes("ann", ("bob", 9)) == "NN"
    assert await shop.dump() == before


async def test_F37_a_grab_before_the_opening_burns_no_stock(shop: Shop) -> None:
    now_ms = await shop.scripts.now_ms()
    await shop.open(1, opens_at_ms=now_ms + HOUR_MS)
    assert await shop.outcomes("early") == "N"
    await shop.set(opens_at_ms=now_ms)
    assert await shop.outcomes("ann", "early") == "AS"


@pytest.mark.parametrize(
    ("change", "letter"),
    [
        ({"state": "closed"}, "C"),
        ({"closes_at_ms": 1}, "C"),
        ({"closes_at_ms": 1, "state": "paused"}, "C"),
        ({"state": "paused"}, "P"),
    ],
    ids=str,
)
@pytest.mark.parametrize("units", [0, 5])
async def test_state_and_window_come_before_quantity_and_stock(
    shop: Shop, change: Mapping[str, str | int], letter: str, units: int
) -> None:
    await shop.open(units)
    await shop.set(**change)
    before = await shop.dump()
    assert await shop.outcomes("ann", ("bob", 9)) == letter * 2
    assert await shop.dump() == before


async def test_the_window_ends_where_it_says(shop: Shop) -> None:
    now_ms = await shop.scripts.now_ms()
    await shop.open(9, opens_at_ms=now_ms, closes_at_ms=now_ms + HOUR_MS)
    assert await shop.outcomes("ann") == "A"
    await shop.set(closes_at_ms=now_ms)
    assert await shop.outcomes("bob") == "C"


async def test_a_quantity_above_the_limit_comes_before_sold_out(shop: Shop) -> None:
    await shop.open(2, per_order_max=2)
    assert await shop.outcomes(("ann", 3), ("bob", 2), ("cid", 3), ("dan", 2)) == "QAQS"


async def test_two_units_are_not_sold_from_one(shop: Shop) -> None:
    await shop.open(1, per_order_max=2)
    before = await shop.dump()
    assert await shop.outcomes(("ann", 2)) == "S"
    assert await shop.dump() == before
    assert await shop.outcomes(("ann", 2), ("bob", 1)) == "SA"


async def test_F14_one_refused_buyer_does_not_end_the_sale(shop: Shop) -> None:
    await shop.open(3, per_order_max=2)
    assert await shop.outcomes(("ann", 3), ("bob", 2), ("cid", 2)) == "QAS"
    assert await shop.outcomes(("cid", 1)) == "A"


async def test_a_full_outbox_refuses_only_grabs_that_would_be_accepted(shop: Shop) -> None:
    await shop.open(2, per_order_max=2)
    await shop.grab("old", outbox_max=1)
    before = await shop.dump()
    assert await shop.outcomes("ann", "old", ("bob", 3), ("cid", 2), outbox_max=1) == "FDQS"
    assert await shop.dump() == before
    assert await shop.outcomes("ann", outbox_max=2) == "A"


async def test_a_grab_of_an_announced_sale_is_not_open(shop: Shop) -> None:
    assert await shop.scripts.announce(shop.sale_id, SaleTerms(1, 5, 1, 1))
    assert await shop.outcomes("ann") == "N"
