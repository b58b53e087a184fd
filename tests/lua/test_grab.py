"""grab.lua: who gets a unit, who is told what, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seckill.adapters import redis_keys
from seckill.errors import Unavailable
from seckill.inventory.reservations import (
    CALL_MAX,
    Grab,
    GrabReply,
    Holding,
    SaleTerms,
    UnitReturn,
    Verdict,
)
from seckill.order_ids import new_order_id
from tests.lua.shop import EPOCH, HOUR_MS, NUMBER, Shop, buyers

# What is granted.


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
    assert await shop.told("cid", "late") == "AS"
    assert buyers(await shop.outbox()) == [["old"], ["ann"], ["cid"]]


@pytest.mark.parametrize("units", [0, 1, 2, 7])
async def test_F2_exactly_as_many_units_are_sold_as_there_are(shop: Shop, units: int) -> None:
    await shop.open(units)
    reply = await shop.grab(*[f"b{n}" for n in range(units + 2)])
    assert "".join(reply.verdicts) == "A" * units + "SS"
    assert reply.left == await shop.stock() == 0
    assert await shop.told("late") == "S"
    await shop.assert_conserved(units)


async def test_F11_stock_stays_at_zero_so_that_one_unit_back_is_one_unit_sold(shop: Shop) -> None:
    await shop.open(1)
    await shop.grab("ann")
    assert await shop.told(*[f"b{n}" for n in range(50)]) == "S" * 50
    assert await shop.stock() == 0
    await shop.give_back(await shop.return_of("ann"))
    assert await shop.told("bob", "cid") == "AS"


async def test_a_full_call_is_one_entry(shop: Shop) -> None:
    await shop.open(1000)
    names = [f"{n:064}" for n in range(CALL_MAX)]
    assert await shop.told(*names) == "A" * CALL_MAX
    assert buyers(await shop.outbox()) == [names]
    reply = await shop.grab(*names, settled=[f"{n}-0" for n in range(CALL_MAX)])
    assert "".join(reply.verdicts) == "D" * CALL_MAX
    held = await shop.holders()
    assert reply.known_ids == [held[name].order_id for name in names]
    await shop.assert_conserved(1000)


async def test_buyers_are_told_apart_by_every_character(shop: Shop) -> None:
    await shop.open(10)
    assert await shop.told("1", "01", "1.0", "ann", "Ann", "-1", "1e0") == "AAAAAAA"


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
    assert await shop.told(("ann", 2), ("ann", 1), ("ann", 1)) == "QAD"


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


# Refusals, and which comes first.


@pytest.mark.parametrize("state", ["created", "open", "paused", "closed"])
async def test_F37_before_the_window_everybody_is_told_not_open(shop: Shop, state: str) -> None:
    await shop.open(0, opens_at_ms=await shop.scripts.now_ms() + HOUR_MS)
    await shop.set(state=state)
    before = await shop.dump()
    assert await shop.told("ann", ("bob", 9)) == "NN"
    assert await shop.dump() == before


async def test_F37_a_grab_before_the_opening_burns_no_stock(shop: Shop) -> None:
    now_ms = await shop.scripts.now_ms()
    await shop.open(1, opens_at_ms=now_ms + HOUR_MS)
    assert await shop.told("early") == "N"
    await shop.set(opens_at_ms=now_ms)
    assert await shop.told("ann", "early") == "AS"


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
async def test_a_gate_is_told_before_quantity_and_stock(
    shop: Shop, change: Mapping[str, str | int], letter: str, units: int
) -> None:
    await shop.open(units)
    await shop.set(**change)
    before = await shop.dump()
    assert await shop.told("ann", ("bob", 9)) == letter * 2
    assert await shop.dump() == before


async def test_the_window_ends_where_it_says(shop: Shop) -> None:
    now_ms = await shop.scripts.now_ms()
    await shop.open(9, opens_at_ms=now_ms, closes_at_ms=now_ms + HOUR_MS)
    assert await shop.told("ann") == "A"
    await shop.set(closes_at_ms=now_ms)
    assert await shop.told("bob") == "C"


async def test_a_quantity_above_the_limit_is_told_before_sold_out(shop: Shop) -> None:
    await shop.open(2, per_order_max=2)
    assert await shop.told(("ann", 3), ("bob", 2), ("cid", 3), ("dan", 2)) == "QAQS"


async def test_two_units_are_not_sold_from_one(shop: Shop) -> None:
    await shop.open(1, per_order_max=2)
    before = await shop.dump()
    assert await shop.told(("ann", 2)) == "S"
    assert await shop.dump() == before
    assert await shop.told(("ann", 2), ("bob", 1)) == "SA"


async def test_F14_one_refused_buyer_does_not_end_the_sale(shop: Shop) -> None:
    await shop.open(3, per_order_max=2)
    assert await shop.told(("ann", 3), ("bob", 2), ("cid", 2)) == "QAS"
    assert await shop.told(("cid", 1)) == "A"


async def test_a_full_outbox_refuses_only_who_would_be_accepted(shop: Shop) -> None:
    await shop.open(2, per_order_max=2)
    await shop.grab("old", outbox_max=1)
    before = await shop.dump()
    assert await shop.told("ann", "old", ("bob", 3), ("cid", 2), outbox_max=1) == "FDQS"
    assert await shop.dump() == before
    assert await shop.told("ann", outbox_max=2) == "A"


# The outbox.


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


async def test_every_reply_tells_the_time_of_redis(shop: Shop) -> None:
    for prepare in (None, shop.open(1), shop.set(state="fenced")):
        if prepare:
            await prepare
        for wait_ms in (HOUR_MS, -1):
            before = await shop.scripts.now_ms()
            reply = await shop.grab("ann", wait_ms=wait_ms)
            assert before <= reply.now_ms <= await shop.scripts.now_ms()


async def test_a_grab_on_an_announced_sale_is_told_not_open(shop: Shop) -> None:
    assert await shop.scripts.announce(shop.sale_id, SaleTerms(1, 5, 1, 1))
    assert await shop.told("ann") == "N"


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


# Any history.

NAMES = [f"b{n}" for n in range(6)]
some_names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)
wishes = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 4)), min_size=1, max_size=8)
steps = st.one_of(
    st.tuples(st.just("grab"), wishes),
    st.tuples(st.just("cancel"), some_names),
    st.tuples(st.just("reject"), some_names),
    st.tuples(st.just("state"), st.sampled_from(["open", "paused", "closed"])),
)


async def run_twice(shop: Shop, call: Callable[[], Awaitable[object]]) -> None:
    """Make a call, and again as after a lost reply: the second time must change nothing."""
    await call()
    before = await shop.dump()
    await call()
    assert await shop.dump() == before


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(total=st.integers(0, 12), history=st.lists(steps, max_size=12), old_at=st.integers(0, 11))
async def test_units_are_conserved_in_any_history(
    make_shop: Callable[[], Awaitable[Shop]],
    total: int,
    history: list[tuple[str, Any]],
    old_at: int,
) -> None:
    """Every call is run twice, and one round of returns comes once more at the very end."""
    shop = await make_shop()
    await shop.open(total, per_order_max=3)
    old_returns: list[UnitReturn] = []
    for number, (step, argument) in enumerate(history):
        if step == "grab":
            grabs = [Grab(new_order_id(NUMBER), name, n) for name, n in argument]
            await run_twice(shop, partial(shop.grab, *grabs))
        elif step == "state":
            await shop.set(state=argument)
        elif named := (await shop.holders()).keys() & set(argument):
            units = 0 if step == "reject" else None
            returns = [await shop.return_of(name, units=units) for name in sorted(named)]
            await run_twice(shop, partial(shop.give_back, *returns))
            assert not (await shop.holders()).keys() & named
            old_returns = returns if number <= old_at else old_returns
        await shop.assert_conserved(total)
    if old_returns:
        before = await shop.dump()
        await shop.give_back(*old_returns)
        assert await shop.dump() == before


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(total=st.integers(0, 12), batches=st.lists(wishes, max_size=4))
async def test_each_grab_is_decided_as_if_it_came_alone(
    make_shop: Callable[[], Awaitable[Shop]], total: int, batches: list[list[tuple[str, int]]]
) -> None:
    """Batching changes no outcome: a model that takes one grab at a time agrees with the script."""
    shop = await make_shop()
    await shop.open(total, per_order_max=3)
    left, held = total, set()
    for batch in batches:
        expected = ""
        for name, quantity in batch:
            if name in held:
                expected += "D"
            elif quantity > 3:
                expected += "Q"
            elif quantity > left:
                expected += "S"
            else:
                expected += "A"
                held.add(name)
                left -= quantity
        reply = await shop.grab(*batch)
        accepted = [w[0] for w, letter in zip(batch, expected, strict=True) if letter == "A"]
        assert ("".join(reply.verdicts), reply.left) == (expected, left)
        assert buyers(await shop.outbox())[-1:] == ([accepted] if accepted else ANY)


async def test_concurrent_calls_sell_exactly_the_stock(shop: Shop) -> None:
    await shop.open(100)
    calls = [shop.grab(*[f"{call}-{n}" for n in range(20)]) for call in range(20)]
    replies = await asyncio.gather(*calls)
    verdicts = [verdict for reply in replies for verdict in reply.verdicts]
    assert verdicts.count(Verdict.ACCEPTED) == 100
    assert len(await shop.holders()) == 100
    await shop.assert_conserved(100)
