"""A discarded letter: its units are returned once, and only those that Redis holds."""

from __future__ import annotations

import asyncio

import pytest

from seckill import messages
from seckill.adapters.topology import ORDERS_EXPIRE
from seckill.dead_letters.resolution import DiscardEffect, Resolution
from seckill.errors import Permanent, Unavailable
from seckill.orders import orders
from seckill.sales import sales
from seckill.sales.terms import NewSale


async def test_a_discarded_letter_gives_its_unit_back(
    open_sale, shop, letters, discard, assert_balanced
):
    sale = await open_sale(stock=3, per_order_max=2)
    (ann,) = await shop.grab(sale, "ann", quantity=2)
    letter = await letters.naming(ann)

    done = await discard(letter)

    assert (done.resolution, done.units) == (Resolution.DISCARDED, 2)
    assert done.effects == {ann.order_id: DiscardEffect.GIVEN_BACK}
    assert await shop.states(sale, [ann]) == ["cancelled dead_letter"]
    await shop.return_all(sale)
    assert (await shop.left(sale), await shop.holders(sale)) == (3, {})
    (closed,) = await letters.all()
    assert (closed.state, closed.closed_reason) == ("discarded", "hopeless")
    (row,) = await letters.audited("dead.discard")
    assert (row["actor"], row["reason"], row["sale_id"]) == ("ops", "hopeless", sale.sale_id)
    assert row["details"]["orders"] == {ann.order_id: "given back"}
    assert row["details"]["units"] == 2
    await assert_balanced(sale)


async def test_F6_discarding_twice_gives_back_once(
    open_sale, shop, letters, discard, assert_balanced
):
    """At the same time, and later."""
    sale = await open_sale(stock=2)
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)

    resolutions = [
        done.resolution for done in await asyncio.gather(discard(letter), discard(letter))
    ]
    await shop.return_all(sale)
    resolutions.append((await discard(letter)).resolution)

    assert sorted(resolutions) == [Resolution.DISCARDED, Resolution.NOT_OPEN, Resolution.NOT_OPEN]
    assert len(await letters.audited("dead.discard")) == 1
    assert await shop.returns(sale) == {}
    assert await shop.left(sale) == 2
    await assert_balanced(sale)


async def test_F6_two_letters_that_name_one_order_give_back_once(
    open_sale, shop, letters, discard, assert_balanced
):
    sale = await open_sale(stock=2)
    (ann,) = await shop.grab(sale, "ann")
    first, second = await letters.naming(ann), await letters.naming(ann, epoch=2)

    assert (await discard(first)).units == 1
    await shop.return_all(sale)
    assert (await discard(second)).effects == {ann.order_id: DiscardEffect.HAS_ROW}

    assert await shop.left(sale) == 2
    await assert_balanced(sale)


async def test_F16_a_crash_before_the_commit_gives_nothing_back_and_it_can_be_repeated(
    open_sale, shop, letters, discard, crash_before_commit, assert_balanced
):
    sale = await open_sale(stock=2)
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)

    with pytest.raises(crash_before_commit):
        await discard(letter)
    assert (await letters.states(), await shop.rows(sale)) == (["open"], {})
    assert await shop.returns(sale) == {}

    assert (await discard(letter)).units == 1
    await shop.return_all(sale)
    await assert_balanced(sale)


@pytest.mark.parametrize("ended", [False, True])
async def test_F6_an_order_that_has_a_row_keeps_its_unit(
    open_sale, shop, letters, discard, assert_balanced, ended
):
    """It was placed after all, or has been given back already."""
    sale = await open_sale(stock=2)
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)
    await shop.place(ann)
    if ended:
        await shop.release(ann)
        await shop.return_all(sale)

    done = await discard(letter)

    assert (done.units, done.effects) == (0, {ann.order_id: DiscardEffect.HAS_ROW})
    assert await shop.returns(sale) == {}
    assert await shop.states(sale, [ann]) == ["cancelled buyer" if ended else "pending"]
    await assert_balanced(sale)


@pytest.mark.parametrize("placing_commits", [True, False])
async def test_F6_a_row_that_is_being_written_is_waited_for(
    open_sale, shop, letters, discard, db, blocked, eventually, assert_balanced, placing_commits
):
    sale = await open_sale(stock=2)
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert await orders.place(connection, [ann]) == []
        discarding = asyncio.create_task(discard(letter))
        await eventually(blocked, "the discard waits for the row")
        await (transaction.commit() if placing_commits else transaction.rollback())

    done = await discarding

    assert done.units == (0 if placing_commits else 1)
    assert await shop.states(sale, [ann]) == [
        "pending" if placing_commits else "cancelled dead_letter"
    ]
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_F6_a_late_copy_of_a_discarded_grab_is_a_duplicate(
    open_sale, shop, letters, discard, outcomes, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    await discard(await letters.naming(ann))

    assert outcomes(await shop.place(ann)) == {ann.order_id: "duplicate"}
    await shop.return_all(sale)
    await assert_balanced(sale)


@pytest.mark.parametrize(
    "as_named", [{"quantity": 0}, {"quantity": 2}, {"buyer_id": "a n n"}, {"buyer_id": None}]
)
async def test_what_redis_reserved_goes_back_whatever_the_letter_says(
    open_sale, shop, letters, discard, assert_balanced, as_named
):
    sale = await open_sale(stock=5, per_order_max=3)
    ann, bob = await shop.grab(sale, "ann", "bob", quantity=1)
    letter = await letters.naming(ann, **as_named)

    done = await discard(letter)

    assert (done.units, done.effects) == (1, {ann.order_id: DiscardEffect.GIVEN_BACK})
    await shop.place(bob)
    await shop.return_all(sale)
    assert (await shop.left(sale), list(await shop.holders(sale))) == (4, ["bob"])
    await assert_balanced(sale)


async def test_a_grab_that_redis_does_not_know_returns_nothing(
    open_sale, shop, letters, discard, assert_balanced
):
    """It gets its row all the same, so that a late copy finds it; a bad entry gets none."""
    sale = await open_sale(stock=2)
    ann, bad = shop.wish(sale, "ann"), shop.wish(sale, "bob")
    first, second = await letters.naming(ann), await letters.naming(bad, quantity=0)

    assert (await discard(first)).effects == {ann.order_id: DiscardEffect.NOTHING_HELD}
    assert (await discard(second)).effects == {bad.order_id: DiscardEffect.NOTHING_HELD}

    assert await shop.states(sale, [ann, bad]) == ["cancelled dead_letter", None]
    await shop.return_all(sale)
    assert await shop.left(sale) == 2
    await assert_balanced(sale)


async def test_grabs_of_a_sale_that_postgresql_does_not_know(open_sale, shop, letters, discard):
    sale = await open_sale()
    ann = shop.wish(sale, "ann")
    letter = await letters.naming(ann, sale_id="no-such-sale")

    done = await discard(letter)

    assert (done.units, done.effects) == (0, {ann.order_id: DiscardEffect.UNKNOWN_SALE})
    (row,) = await letters.audited("dead.discard")
    assert row["details"]["orders"] == {ann.order_id: "unknown sale"}
    assert row["sale_id"] == "no-such-sale"
    assert await letters.states() == ["discarded"]


async def test_F23_an_amount_that_does_not_fit_keeps_no_unit(
    letters, discard, shop, db, stock, assert_balanced
):
    """PostgreSQL refused to place it; its row must be written without that amount."""
    dear = await sales.create(db, stock, NewSale("dear-letters", 9, 10**15, per_order_max=9))
    dear = await sales.open_(db, stock, dear.sale_id)
    (eve,) = await shop.grab(dear, "eve", quantity=9)
    await db.execute(
        "UPDATE sales SET per_order_max = 1, price_cents = $2 WHERE sale_id = $1",
        dear.sale_id,
        2**62,
    )
    letter = await letters.naming(eve)

    assert (await discard(letter)).units == 9

    await shop.return_all(dear)
    assert await shop.left(dear) == 9
    await assert_balanced(dear)


async def test_a_row_that_postgresql_refuses_leaves_all_as_it_was(
    open_sale, shop, letters, discard, db
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)
    await db.execute("ALTER TABLE orders ADD CONSTRAINT no_ann CHECK (buyer_id <> 'ann') NOT VALID")
    try:
        with pytest.raises(Permanent, match=r"stays open.*no_ann"):
            await discard(letter)
    finally:
        await db.execute("ALTER TABLE orders DROP CONSTRAINT no_ann")

    assert await letters.states() == ["open"]
    assert await shop.returns(sale) == {}
    assert (await discard(letter)).units == 1


async def test_F16_without_redis_nothing_is_discarded(open_sale, shop, letters, discard, redis):
    sale = await open_sale()
    letter = await letters.naming(shop.wish(sale, "ann"))

    class UnavailableRedis:
        async def hmget(self, *_):
            raise ConnectionError("refused")

    with pytest.raises(Unavailable):
        await discard(letter, redis=UnavailableRedis())

    assert (await letters.states(), await shop.rows(sale)) == (["open"], {})


async def test_a_timer_holds_no_units(open_sale, shop, letters, discard, assert_balanced):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await letters.arrive(messages.encode_expire([ann.order_id]), queue=ORDERS_EXPIRE)

    done = await discard((await letters.all())[0])

    assert (done.units, done.effects) == (0, {ann.order_id: DiscardEffect.NAMED_ONLY})
    assert await shop.states(sale, [ann]) == ["pending"]
    await assert_balanced(sale)


async def test_a_whole_batch_is_discarded_together(
    open_sale, shop, letters, discard, assert_balanced
):
    """A message that took its consumers down names all its grabs."""
    sale = await open_sale(stock=50)
    grabs = await shop.grab(sale, *(f"buyer-{i}" for i in range(40)))
    await shop.place(*grabs[:5])
    letter = await letters.naming(*grabs)

    assert (await discard(letter)).units == 35

    await shop.return_all(sale)
    assert await shop.left(sale) == 45
    await assert_balanced(sale)


async def test_a_letter_that_does_not_exist_is_not_open(letters, replay, discard):
    await letters.arrive(b"x")
    (letter,) = await letters.all()
    await letters.db.execute("TRUNCATE dead_letters CASCADE")

    assert await replay(letter) is Resolution.NOT_OPEN
    assert (await discard(letter)).resolution is Resolution.NOT_OPEN
