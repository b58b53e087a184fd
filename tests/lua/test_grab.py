"""grab.lua: what is granted, and what a repeat gets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from seckill.inventory.reservations import (
    CALL_MAX,
    Grab,
    Holding,
    Verdict,
)
from seckill.order_ids import new_order_id
from tests.lua.shop import EPOCH, NUMBER, Shop, buyers


async def test_accepted_grabs_become_holders_one_outbox_entry_and_less_stock(shop: Shop) -> None:
    await shop.open(10, per_order_max=3)
    ann, bob = Grab(new_order_id(NUMBER), "ann", 1), Grab(new_order_id(NUMBER), "bob", 3)
    reply = await shop.grab(ann, bob)
    assert reply.verdicts == [Verdict.ACCEPTED] * 2
    assert (reply.left, reply.epoch, reply.known_ids) == (6, EPOCH, [])
    assert await shop.stock() == 6
    assert await shop.holders() == {
        "ann": Holding(ann.order_id, 1),
        "bob": Holding(bob.order_id, 3),
    }
    (entry,) = await shop.outbox()
    assert (entry.outbox_id, entry.epoch, entry.grabs) == (reply.outbox_id, EPOCH, [ann, bob])


async def test_the_outbox_entry_holds_exactly_the_accepted_ones(shop: Shop) -> None:
    await shop.open(3, per_order_max=2)
    await shop.grab("old")
    reply = await shop.grab("ann", "old", ("greedy", 3), ("bob", 2), "ann")
    assert "".join(reply.verdicts) == "ADQSD"
    assert await shop.outcomes("cid", "late") == "AS"
    assert buyers(await shop.outbox()) == [["old"], ["ann"], ["cid"]]


@pytest.mark.parametrize("units", [0, 1, 2, 7])
async def test_F2_exactly_as_many_units_are_sold_as_there_are(shop: Shop, units: int) -> None:
    await shop.open(units)
    reply = await shop.grab(*[f"b{n}" for n in range(units + 2)])
    assert "".join(reply.verdicts) == "A" * units + "SS"
    assert reply.left == await shop.stock() == 0
    assert await shop.outcomes("late") == "S"
    await shop.assert_conserved(units)


async def test_F11_stock_stays_at_zero_so_that_one_unit_back_is_one_unit_sold(shop: Shop) -> None:
    await shop.open(1)
    await shop.grab("ann")
    assert await shop.outcomes(*[f"b{n}" for n in range(50)]) == "S" * 50
    assert await shop.stock() == 0
    await shop.give_back(await shop.return_of("ann"))
    assert await shop.outcomes("bob", "cid") == "AS"


async def test_a_full_call_is_one_entry(shop: Shop) -> None:
    await shop.open(1000)
    names = [f"{n:064}" for n in range(CALL_MAX)]
    assert await shop.outcomes(*names) == "A" * CALL_MAX
    assert buyers(await shop.outbox()) == [names]
    reply = await shop.grab(*names, settled=[f"{n}-0" for n in range(CALL_MAX)])
    assert "".join(reply.verdicts) == "D" * CALL_MAX
    held = await shop.holders()
    assert reply.known_ids == [held[name].order_id for name in names]
    await shop.assert_conserved(1000)


async def test_buyers_differ_by_every_character(shop: Shop) -> None:
    await shop.open(10)
    assert await shop.outcomes("1", "01", "1.0", "ann", "Ann", "-1", "1e0") == "AAAAAAA"


async def test_concurrent_calls_sell_exactly_the_stock(shop: Shop) -> None:
    await shop.open(100)
    calls = [shop.grab(*[f"{call}-{n}" for n in range(20)]) for call in range(20)]
    replies = await asyncio.gather(*calls)
    verdicts = [verdict for reply in replies for verdict in reply.verdicts]
    assert verdicts.count(Verdict.ACCEPTED) == 100
    assert len(await shop.holders()) == 100
    await shop.assert_conserved(100)


# Repeats.


async def test_F10_duplicate_clicks_take_one_unit(shop: Shop) -> None:
    await shop.open(10)
    first = await shop.grab("ann")
    order_id = (await shop.holders())["ann"].order_id
    again = await shop.grab("ann", "ann", ("ann", 5))
    assert "".join(first.verdicts) + "".join(again.verdicts) == "ADDD"
    assert again.known_ids == [order_id] * 3
    assert again.outbox_id == ""
    assert await shop.stock() == 9


async def test_F10_two_clicks_in_one_batch_share_the_order_of_the_first(shop: Shop) -> None:
    await shop.open(10)
    first, second = (Grab(new_order_id(NUMBER), "ann", 1) for _ in range(2))
    reply = await shop.grab(first, "bob", second)
    assert "".join(reply.verdicts) == "AAD"
    assert reply.known_ids == [first.order_id]
    assert await shop.stock() == 8
    assert (await shop.holders())["ann"].order_id == first.order_id


async def test_a_second_click_may_win_where_the_first_asked_too_much(shop: Shop) -> None:
    await shop.open(10)
    assert await shop.outcomes(("ann", 2), ("ann", 1), ("ann", 1)) == "QAD"


async def test_running_the_same_call_again_changes_nothing(shop: Shop) -> None:
    await shop.open(3, per_order_max=2)
    call = [Grab(new_order_id(NUMBER), name, 1) for name in ("ann", "bob", "ann", "cid", "dan")]
    first = await shop.grab(*call)
    before = await shop.dump()
    second = await shop.grab(*call)
    assert await shop.dump() == before
    assert "".join(first.verdicts) == "AADAS"
    assert "".join(second.verdicts) == "DDDDS"
    assert second.known_ids == [call[n].order_id for n in (0, 1, 0, 3)]
    assert (second.outbox_id, second.left) == ("", 0)


HOLDS: dict[str, Mapping[str, str | int]] = {
    "sold out": {},
    "closed": {"state": "closed"},
    "paused": {"state": "paused"},
    "window over": {"closes_at_ms": 1},
    "window moved to the future": {"opens_at_ms": 2**52},
    "limit lowered": {"per_order_max": 0},
}


@pytest.mark.parametrize("change", HOLDS.values(), ids=HOLDS)
async def test_retry_by_the_last_winner_is_duplicate(
    shop: Shop, change: Mapping[str, str | int]
) -> None:
    await shop.open(1)
    await shop.grab("ann")
    await shop.set(**change)
    reply = await shop.grab("ann", "bob")
    assert reply.verdicts[0] is Verdict.DUPLICATE
    assert reply.verdicts[1] not in (Verdict.ACCEPTED, Verdict.DUPLICATE)
    assert reply.known_ids == [(await shop.holders())["ann"].order_id]
