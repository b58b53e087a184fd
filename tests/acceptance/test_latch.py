"""The latch: buyers who can get nothing cost nothing, and it never refuses one who can."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ops.buyers import grab
from seckill.adapters import redis_keys
from seckill.sales import sales
from tests.processes import eventually


async def test_F15_note_09_a_return_lets_the_very_first_grab_through_at_every_process(
    each, consumers, open_sale, ticket_for, login_for, store, assert_balanced
):
    sale = await open_sale(stock=4)

    async def press(http, buyer):
        return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

    won = [await press(http, f"w{n}") for n, http in enumerate(each)]
    for http in each:
        for _ in range(2):  # refused by the script, then by a look-up: all four have latched
            assert (await press(http, "late")).code == "sold_out"
    for answer in won:
        path = f"/v1/orders/{answer.order_id}"
        async with each[0].delete(path, headers=login_for(answer.buyer_id)) as response:
            assert response.status == 200

    async def units_are_back():
        return await store.get(redis_keys.stock(sale.sale_id)) == b"4"

    await eventually(units_are_back, "four units are back")
    answers = [await press(http, f"next{n}") for n, http in enumerate(each)]
    assert [answer.status for answer in answers] == [202] * 4
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders cancelled"] == ledger.lines["orders pending"] == 4


@pytest.mark.parametrize("refused", ["not_open", "closed", "paused"])
async def test_F15_an_opening_lets_the_very_first_press_through_at_every_process(
    each, open_sale, ticket_for, db, stock, refused
):
    sale = await open_sale(stock=8, opened=refused != "not_open")
    if refused == "closed":
        await sales.close(db, stock, sale.sale_id)
    elif refused == "paused":
        await sales.pause(db, stock, sale.sale_id)

    async def press(http, buyer):
        return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

    for http in each:
        for _ in range(2):
            assert (await press(http, "early")).code == refused
    await (sales.resume if refused == "paused" else sales.open_)(db, stock, sale.sale_id)
    answers = [await press(http, f"b{n}") for n, http in enumerate(each)]
    assert [answer.status for answer in answers] == [202] * 4


async def test_F37_a_press_before_the_opening_burns_nothing_at_any_process(
    each, open_sale, ticket_for, store, set_limit
):
    """No unit, no holder, no outbox entry; and of the rate limit no token and no turn."""
    sale = await open_sale(stock=8, opens_at=datetime.now(UTC) + timedelta(hours=1))
    await set_limit(sale, rate=1, burst=8)

    async def press(http, buyer):
        return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

    async def all_of_it():
        found = [key async for key in store.scan_iter(f"sk:{{{sale.sale_id}}}*")]
        return {key: await store.dump(key) for key in found}

    before = await all_of_it()
    for http in each:
        crowd = await asyncio.gather(*(press(http, f"b{n}") for n in range(40)))
        assert {answer.code for answer in crowd} == {"not_open"}
    assert await all_of_it() == before

    await store.hset(redis_keys.sale(sale.sale_id), "opens_at_ms", 1)  # the hour is over
    answers = [await press(http, f"b{n}") for n, http in enumerate(each * 2)]
    assert [answer.status for answer in answers] == [202] * 8, "the whole burst is there"


async def test_F14_a_buyer_who_is_refused_for_himself_ends_nothing_for_others(
    each, open_sale, ticket_for
):
    sale = await open_sale(stock=4, per_order_max=3)
    for http, buyer, quantity, expected in [
        (each[0], "ann", 4, (422, "bad_request")),
        (each[0], "bob", 3, (202, None)),
        (each[0], "cat", 2, (409, "too_few_left")),  # one is left
        (each[0], "dan", 1, (202, None)),
    ]:
        ticket = ticket_for(sale, buyer)
        answer = await grab(http, sale.sale_id, buyer, ticket, quantity=quantity)
        assert (answer.status, answer.code) == expected, buyer
