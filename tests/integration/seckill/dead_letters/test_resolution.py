"""How letters end: a replayed one is lost at no step, a discarded one gives back once."""

from __future__ import annotations

import asyncio

import pytest

from seckill import audit, messages
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.dead_letters import resolution
from seckill.dead_letters.resolution import REPLAYS_MAX, DiscardEffect, Resolution
from seckill.errors import Permanent, Unavailable
from seckill.orders import orders
from seckill.sales import sales
from seckill.sales.sales import NewSale


@pytest.fixture
def replay(db, publisher, queues):
    async def call(letter, *, by=publisher, **options):
        return await resolution.replay(db, by, letter.letter_id, actor="ops", **options)

    return call


@pytest.fixture
def discard(db, store):
    async def call(letter, *, redis=store):
        return await resolution.discard(db, redis, letter.letter_id, actor="ops", reason="hopeless")

    return call


@pytest.fixture
def place(place_orders, queues):
    """Place what lies in orders.place."""
    handler = place_orders()

    async def take(count=1):
        await handler.handle(await queues.take(ORDERS_PLACE, count))

    return take


class Crash(Exception):
    pass


@pytest.fixture
def crash_before_commit(monkeypatch):
    """The next ending dies when all is written and nothing is committed."""
    real, crashes = audit.record, [Crash()]

    async def record(*args, **options):
        await real(*args, **options)
        if crashes:
            raise crashes.pop()

    monkeypatch.setattr(audit, "record", record)


# Replay.


async def test_a_replayed_letter_becomes_its_order(
    open_sale, shop, letters, replay, place, queues, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)

    assert await replay(letter) is Resolution.REPLAYED
    (message,) = await queues.take(ORDERS_PLACE, 1, no_ack=False)
    assert message.body == letter.body
    assert message.headers.keys() <= {"x-delivery-count"}  # the broker's own
    await message.nack(requeue=True)
    await place()

    assert await shop.states(sale, [ann]) == ["pending"]
    (closed,) = await letters.all()
    assert (closed.state, closed.replays, closed.closed_by) == ("replayed", 1, "ops")
    (row,) = await letters.audited("dead.replay")
    assert (row["actor"], row["sale_id"]) == ("ops", sale.sale_id)
    assert row["details"]["letter_id"] == letter.letter_id
    await assert_balanced(sale)


async def test_a_timer_goes_back_to_its_own_queue(letters, replay, queues):
    await letters.arrive(messages.encode_expire([]), queue=ORDERS_EXPIRE)

    assert await replay((await letters.all())[0]) is Resolution.REPLAYED

    assert len(await queues.take_all(ORDERS_EXPIRE)) == 1


async def test_F20_a_second_replay_sends_nothing(open_sale, shop, letters, replay, queues):
    sale = await open_sale()
    letter = await letters.naming(shop.wish(sale, "ann"))

    endings = await asyncio.gather(replay(letter), replay(letter))

    assert sorted(endings) == [Resolution.NOT_OPEN, Resolution.REPLAYED]
    assert await replay(letter) is Resolution.NOT_OPEN
    assert len(await queues.take_all(ORDERS_PLACE)) == 1


async def test_F20_a_crash_after_the_publish_leaves_it_open_and_it_is_ordered_once(
    open_sale, shop, letters, replay, place, crash_before_commit, assert_balanced
):
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)

    with pytest.raises(Crash):
        await replay(letter)
    assert await letters.states() == ["open"]
    assert await letters.audited("dead.replay") == []
    assert await replay(letter) is Resolution.REPLAYED
    await place(2)

    assert await shop.states(sale, [ann]) == ["pending"]
    await assert_balanced(sale)


class Failing:
    """A publisher whose broker is away, or who does something before it confirms."""

    def __init__(self, before_confirm=None):
        self._before_confirm = before_confirm

    async def publish(self, queue, body, headers=None):
        if self._before_confirm is None:
            raise Unavailable
        await self._before_confirm()


async def test_F13_a_letter_that_the_broker_did_not_confirm_stays_open(letters, replay):
    await letters.arrive(b"x")
    (letter,) = await letters.all()

    with pytest.raises(Unavailable):
        await replay(letter, by=Failing())

    assert await letters.all() == [letter]


async def test_F13_a_message_that_dies_before_its_replay_is_committed_is_not_lost(
    letters, replay, blocked, eventually
):
    """Its consumer is faster than our commit: the letter must be open in the end."""
    await letters.arrive(b"x", {"x-last-failed-ms": 1})
    (letter,) = await letters.all()
    dying = []

    async def dies_at_once():
        arriving = letters.arrive(b"x", {"x-last-failed-ms": 2})
        dying.append(asyncio.create_task(arriving))
        await eventually(blocked, "the arrival waits for the replay")

    assert await replay(letter, by=Failing(dies_at_once)) is Resolution.REPLAYED
    await dying[0]

    (again,) = await letters.all()
    assert (again.state, again.replays, again.deaths) == ("open", 1, 2)


async def test_F23_after_so_many_replays_it_takes_force(letters, replay, queues):
    for number in range(REPLAYS_MAX):
        await letters.arrive(b"x", {"x-last-failed-ms": number})
        (letter,) = await letters.all()
        assert await replay(letter) is Resolution.REPLAYED
    await letters.arrive(b"x")

    assert await replay(letter) is Resolution.TOO_OFTEN
    assert len(await queues.take_all(ORDERS_PLACE)) == REPLAYS_MAX
    assert await letters.states() == ["open"]
    assert await replay(letter, force=True) is Resolution.REPLAYED


async def test_a_letter_of_a_queue_that_is_no_more_stays_open(letters, replay, queues):
    await letters.arrive(b"x", queue="orders-of-old")
    (letter,) = await letters.all()

    assert await replay(letter) is Resolution.NO_QUEUE
    assert await letters.states() == ["open"]


# Discard.


async def test_a_discarded_letter_gives_its_unit_back(
    open_sale, shop, letters, discard, assert_balanced
):
    sale = await open_sale(stock=3, per_order_max=2)
    (ann,) = await shop.grab(sale, "ann", quantity=2)
    letter = await letters.naming(ann)

    done = await discard(letter)

    assert (done.ending, done.units) == (Resolution.DISCARDED, 2)
    assert done.fates == {ann.order_id: DiscardEffect.GIVEN_BACK}
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

    endings = [done.ending for done in await asyncio.gather(discard(letter), discard(letter))]
    await shop.return_all(sale)
    endings.append((await discard(letter)).ending)

    assert sorted(endings) == [Resolution.DISCARDED, Resolution.NOT_OPEN, Resolution.NOT_OPEN]
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
    assert (await discard(second)).fates == {ann.order_id: DiscardEffect.HAS_ROW}

    assert await shop.left(sale) == 2
    await assert_balanced(sale)


async def test_F16_a_crash_before_the_commit_gives_nothing_back_and_it_can_be_repeated(
    open_sale, shop, letters, discard, crash_before_commit, assert_balanced
):
    sale = await open_sale(stock=2)
    (ann,) = await shop.grab(sale, "ann")
    letter = await letters.naming(ann)

    with pytest.raises(Crash):
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

    assert (done.units, done.fates) == (0, {ann.order_id: DiscardEffect.HAS_ROW})
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

    assert (done.units, done.fates) == (1, {ann.order_id: DiscardEffect.GIVEN_BACK})
    await shop.place(bob)
    await shop.return_all(sale)
    assert (await shop.left(sale), list(await shop.holders(sale))) == (4, ["bob"])
    await assert_balanced(sale)


async def test_a_grab_that_redis_knows_nothing_of_gives_nothing_back(
    open_sale, shop, letters, discard, assert_balanced
):
    """It gets its row all the same, so that a late copy finds it; a bad entry gets none."""
    sale = await open_sale(stock=2)
    ann, bad = shop.wish(sale, "ann"), shop.wish(sale, "bob")
    first, second = await letters.naming(ann), await letters.naming(bad, quantity=0)

    assert (await discard(first)).fates == {ann.order_id: DiscardEffect.NOTHING_HELD}
    assert (await discard(second)).fates == {bad.order_id: DiscardEffect.NOTHING_HELD}

    assert await shop.states(sale, [ann, bad]) == ["cancelled dead_letter", None]
    await shop.return_all(sale)
    assert await shop.left(sale) == 2
    await assert_balanced(sale)


async def test_grabs_of_a_sale_that_postgresql_does_not_know(open_sale, shop, letters, discard):
    sale = await open_sale()
    ann = shop.wish(sale, "ann")
    letter = await letters.naming(ann, sale_id="no-such-sale")

    done = await discard(letter)

    assert (done.units, done.fates) == (0, {ann.order_id: DiscardEffect.UNKNOWN_SALE})
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


async def test_F16_with_redis_away_nothing_is_discarded(open_sale, shop, letters, discard, redis):
    sale = await open_sale()
    letter = await letters.naming(shop.wish(sale, "ann"))

    class Away:
        async def hmget(self, *_):
            raise ConnectionError("refused")

    with pytest.raises(Unavailable):
        await discard(letter, redis=Away())

    assert (await letters.states(), await shop.rows(sale)) == (["open"], {})


async def test_a_timer_holds_no_units(open_sale, shop, letters, discard, assert_balanced):
    sale = await open_sale()
    (ann,) = await shop.order(sale, "ann")
    await letters.arrive(messages.encode_expire([ann.order_id]), queue=ORDERS_EXPIRE)

    done = await discard((await letters.all())[0])

    assert (done.units, done.fates) == (0, {ann.order_id: DiscardEffect.NAMED_ONLY})
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


async def test_a_letter_that_is_not_there_ends_nowise(letters, replay, discard):
    await letters.arrive(b"x")
    (letter,) = await letters.all()
    await letters.db.execute("TRUNCATE dead_letters CASCADE")

    assert await replay(letter) is Resolution.NOT_OPEN
    assert (await discard(letter)).ending is Resolution.NOT_OPEN
