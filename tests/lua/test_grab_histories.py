"""grab.lua: what holds in any history of grabs, returns and changes of state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from unittest.mock import ANY

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seckill.inventory.reservations import (
    Grab,
    UnitReturn,
)
from seckill.order_ids import new_order_id
from tests.lua.shop import NUMBER, Shop, buyers

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
