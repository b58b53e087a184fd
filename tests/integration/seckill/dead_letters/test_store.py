"""The table of dead letters: arriving again, closing, selecting, paging."""

from __future__ import annotations

import pytest

from seckill import messages
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.dead_letters import store
from seckill.dead_letters.store import LetterFilter
from seckill.errors import Missing


@pytest.mark.parametrize("state", ["replayed", "discarded"])
async def test_F6_a_message_that_comes_again_does_not_open_a_closed_letter(db, letters, state):
    await letters.arrive(b"x", {"x-last-failed-ms": 2_000})
    await letters.close_all(state)

    assert await letters.arrive(b"x", {"x-last-failed-ms": 2_000}) == []

    assert [letter.state for letter in await letters.all()] == [state]


@pytest.mark.parametrize("headers", [{"x-last-failed-ms": 2_001}, {"x-reason": "?"}, {}])
async def test_a_message_that_is_dead_lettered_again_opens_its_letter_again(db, letters, headers):
    """Also if it may be the same death: to look at a letter again is the smaller harm."""
    await letters.arrive(
        b"x", {"x-last-failed-ms": 2_000} if headers.get("x-last-failed-ms") else {}
    )
    await letters.close_all("replayed")

    assert len(await letters.arrive(b"x", headers)) == 1

    (letter,) = await letters.all()
    assert (letter.state, letter.deaths, letter.replays) == ("open", 2, 1)
    assert (letter.closed_at, letter.closed_by) == (None, None)


async def test_selections(db, letters):
    for number, reason in enumerate(["Bigint out of range", "100% \\ odd_", "unknown sale"]):
        body = messages.encode_place(f"sale-of-letters-{number}", 1, [], [])
        await letters.arrive(body, {"x-reason": reason})
    await letters.arrive(
        messages.encode_expire([]), {"x-reason": "unknown sale"}, queue=ORDERS_EXPIRE
    )
    first, second, third, timer = [letter.letter_id for letter in await letters.all()]

    async def ids(**terms):
        return [letter.letter_id for letter in await letters.all(LetterFilter(**terms))]

    assert await ids(queue=ORDERS_PLACE) == [first, second, third]
    assert await ids(sale_id="sale-of-letters-1") == [second]
    assert await ids(reason="bigint") == [first]
    assert await ids(reason="% \\ odd_") == [second]
    assert await ids(reason="unknown", queue=ORDERS_EXPIRE) == [timer]
    assert await ids(ids=[third, first, 10**6]) == [first, third]
    assert await ids(ids=[]) == []
    assert await store.count(db, LetterFilter(reason="unknown")) == 2
    assert await store.open_by_queue(db) == {ORDERS_PLACE: 3, ORDERS_EXPIRE: 1}


async def test_pages_give_every_letter_once(db, letters, monkeypatch):
    monkeypatch.setattr(store, "PAGE", 2)
    for number in range(5):
        await letters.arrive(str(number).encode())

    bodies = [letter.body async for letter in store.every(db, LetterFilter(state=None))]

    assert bodies == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_letter_that_is_not_there(db, letters):
    with pytest.raises(Missing, match="no dead letter 999999"):
        await store.find(db, 999_999)


async def test_orders_on_open_letters_of_a_sale(open_sale, shop, db, letters):
    sale, other = await open_sale(), await open_sale()
    ann, bob, cat = shop.wish(sale, "ann"), shop.wish(sale, "bob"), shop.wish(other, "cat")
    for wish in (ann, bob, cat):
        entry = [wish.order_id, wish.buyer_id, 1]
        await letters.arrive(messages.encode_place(wish.sale_id, 1, [], [entry]))
    await db.execute(
        "UPDATE dead_letters SET state = 'replayed' FROM dead_letter_orders o"
        " WHERE o.letter_id = dead_letters.letter_id AND order_id = $1",
        bob.order_id,
    )

    assert await store.open_order_ids(db, sale.sale_id) == {ann.order_id}
    assert await store.open_order_ids(db, other.sale_id) == {cat.order_id}
    assert await store.open_order_ids(db, "no-such-sale") == set()
