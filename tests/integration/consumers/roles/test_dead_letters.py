"""The dead_letters role: what lies in a dead queue is a row in SQL, once, whatever it is."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import aio_pika
import asyncpg
import pytest
from prometheus_client import REGISTRY

from consumers.roles import dead_letters as dead_letters_role
from consumers.roles.dead_letters import LongestRetry, OpenLetterCount, StoreDeadLetters
from consumers.runtime.poll_role import PollRole
from consumers.runtime.role import RoleGroup
from seckill import messages
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.dead_letters import store
from seckill.dead_letters.parser import NamedOrder
from seckill.dead_letters.store import LetterFilter
from seckill.errors import Missing


class Crash(BaseException):
    """The process dies: no `except Exception` may catch it."""


@pytest.fixture
def die(settings, queues):
    """Put a message into a dead queue, with whatever headers."""

    async def publish(body, headers=None, *, queue=ORDERS_PLACE):
        async with await aio_pika.connect(settings.amqp_url) as connection:
            channel = await connection.channel()
            message = aio_pika.Message(body, headers=headers)
            await channel.default_exchange.publish(message, topology.dead(queue))

    return publish


@pytest.fixture
def mover(db, publisher, queue_role):
    """A role that moves the dead letters of a queue."""

    def make(queue=ORDERS_PLACE, *, handle=None):
        return queue_role(
            topology.dead(queue),
            handle or StoreDeadLetters(db, queue).handle,
            retries=LongestRetry(publisher, queue),
        )

    return make


@pytest.fixture
async def moved(mover, running, eventually, letters):
    """Let the role run until there are so many letters."""

    async def run(count=1, queue=ORDERS_PLACE):
        async def arrived():
            found = await letters.all()
            return found if len(found) >= count else None

        async with running(mover(queue)):
            return await eventually(arrived, f"{count} letters")

    return run


async def test_a_dead_letter_has_all_that_is_known_of_it(open_sale, shop, die, moved):
    sale = await open_sale()
    ann = shop.wish(sale, "ann", 2)
    body = messages.encode_place(sale.sale_id, 1, [], [[ann.order_id, "ann", 2]])
    headers = {
        "x-reason": "PostgreSQL refuses it",
        "x-stack": "Traceback",
        "x-attempts": 4,
        "x-first-failed-ms": 1_800_000_000_000,
        "x-last-failed-ms": 1_800_000_003_000,
    }
    await die(body, headers)

    (letter,) = await moved()

    assert (letter.queue, letter.sale_id, letter.state) == (ORDERS_PLACE, sale.sale_id, "open")
    assert (letter.reason, letter.stack, letter.attempts) == (
        "PostgreSQL refuses it", "Traceback", 4,
    )  # fmt: skip
    assert (letter.last_at - letter.first_at).total_seconds() == 3
    assert (letter.body, letter.headers) == (body, headers)
    assert letter.orders == (NamedOrder(ann.order_id, "ann", 2),)
    assert (letter.deaths, letter.replays) == (1, 0)


async def test_a_dead_parcel_is_a_letter_for_each_of_its_parts(open_sale, shop, die, moved):
    sales = [await open_sale(), await open_sale()]
    wishes = [shop.wish(sale, "ann") for sale in sales]
    bodies = [messages.encode_place(w.sale_id, 1, [], [[w.order_id, "ann", 1]]) for w in wishes]
    await die(messages.encode_multi_sale(bodies), {"x-reason": "test"})

    found = await moved(2)

    assert {(letter.sale_id, letter.body) for letter in found} == {
        (sale.sale_id, body) for sale, body in zip(sales, bodies, strict=True)
    }
    assert {letter.orders for letter in found} == {
        (NamedOrder(wish.order_id, "ann", 1),) for wish in wishes
    }


UNREADABLE = {
    "empty": b"",
    "not MessagePack": b"\xc1",
    "text that is not UTF-8": b"\x84\xa4sale\xa1\xff",
    "nested too deeply": b"\x91" * 9999,
    "NUL": messages.encode_place("demo", 1, ["\0"], [["\0", "\0", 1]]),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_F13_bytes_that_nobody_can_read_are_kept(die, moved, body):
    odd = bytearray(b"\xff\0")
    await die(body, {"x-reason": "NUL \0 and more", "x-stack": odd, "x": [odd, {"\0": 1}]})

    (letter,) = await moved()

    assert letter.body == body
    assert letter.reason == "NUL \\0 and more"


async def test_F13_letters_of_all_queues_are_moved(die, moved, letters, mover, running, eventually):
    for queue in topology.WORK_QUEUES:
        await die(b"same", queue=queue)

    async def both():
        return {letter.queue for letter in await letters.all()} == set(topology.WORK_QUEUES)

    async with running(RoleGroup([mover(queue) for queue in topology.WORK_QUEUES])):
        await eventually(both, "a letter of each queue")


async def test_F20_a_copy_counts_on_the_letter_of_the_first(
    die, letters, mover, running, eventually
):
    """Buried twice because the ack was lost in between: the later death is the one told."""
    await die(b"x", {"x-reason": "first", "x-first-failed-ms": 1_000, "x-last-failed-ms": 2_000})
    await die(b"x", {"x-reason": "second", "x-first-failed-ms": 1_500, "x-last-failed-ms": 3_000})

    async def twice():
        return [letter for letter in await letters.all() if letter.deaths == 2]

    async with running(mover()):
        (letter,) = await eventually(twice, "both have arrived")

    assert letter.reason == "second"
    assert (letter.first_at.timestamp(), letter.last_at.timestamp()) == (1, 3)


async def test_F20_a_message_moved_before_its_ack_was_lost_is_one_letter(
    die, db, letters, mover, running, eventually, queues
):
    """The role commits and dies; the message comes again, and nothing is new."""
    await die(b"x", {"x-reason": "why", "x-last-failed-ms": 2_000})
    handler = StoreDeadLetters(db, ORDERS_PLACE)

    async def dies_after_commit(batch):
        await handler.handle(batch)
        raise Crash

    with pytest.raises(Crash):
        await mover(handle=dies_after_commit).run(asyncio.Event())
    (first,) = await letters.all()
    again = []

    async def handle(batch):
        await handler.handle(batch)
        again.extend(batch)

    async with running(mover(handle=handle)):
        await eventually(lambda: again, "delivered again")

    assert again[0].redelivered
    assert await letters.all() == [first]


@pytest.mark.parametrize("state", ["replayed", "discarded"])
async def test_F6_a_message_that_comes_again_does_not_open_a_closed_letter(db, letters, state):
    await letters.arrive(b"x", {"x-last-failed-ms": 2_000})
    await close_all(db, state)

    assert await letters.arrive(b"x", {"x-last-failed-ms": 2_000}) == []

    assert [letter.state for letter in await letters.all()] == [state]


@pytest.mark.parametrize("headers", [{"x-last-failed-ms": 2_001}, {"x-reason": "?"}, {}])
async def test_a_message_that_dies_again_opens_its_letter_again(db, letters, headers):
    """Also where nobody can tell whether it is another death: to look again is the smaller harm."""
    await letters.arrive(
        b"x", {"x-last-failed-ms": 2_000} if headers.get("x-last-failed-ms") else {}
    )
    await close_all(db, "replayed")

    assert len(await letters.arrive(b"x", headers)) == 1

    (letter,) = await letters.all()
    assert (letter.state, letter.deaths, letter.replays) == ("open", 2, 1)
    assert (letter.closed_at, letter.closed_by) == (None, None)


async def test_F23_a_message_that_takes_its_consumers_down_is_a_letter_that_says_so(
    open_sale, shop, publisher, queue_role, queues, eventually, moved
):
    """The broker moves it itself, after its delivery limit."""
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    body = messages.encode_place(sale.sale_id, 1, [], [[ann.order_id, "ann", 1]])
    await publisher.publish(ORDERS_PLACE, body)

    async def dies(_):
        raise Crash

    async def given_up():
        return await queues.size(topology.dead(ORDERS_PLACE))

    async def ended(role):
        return role.done() or await given_up()

    for _ in range(topology.DELIVERY_LIMIT + 5):
        stop = asyncio.Event()
        role = asyncio.create_task(queue_role(ORDERS_PLACE, dies).run(stop))
        await eventually(partial(ended, role), "the consumer died, or the message is dead")
        stop.set()
        await asyncio.gather(role, return_exceptions=True)
        if await given_up():
            break

    (letter,) = await moved()

    assert "delivered 20 times without an answer" in letter.reason
    assert letter.attempts == topology.DELIVERY_LIMIT
    assert [order.order_id for order in letter.orders] == [ann.order_id]
    assert letter.body == body


AWAY = {
    "connection lost": lambda: asyncpg.ConnectionDoesNotExistError("connection was closed"),
    "lock timeout": lambda: asyncpg.LockNotAvailableError("lock timeout"),
    "too slow": TimeoutError,
}


@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY)
async def test_F13_while_postgresql_is_away_letters_are_held_and_then_moved(
    die, moved, monkeypatch, away
):
    real, failures = store._write, [away(), away()]

    async def write(*args):
        if failures:
            raise failures.pop()
        return await real(*args)

    monkeypatch.setattr(store, "_write", write)
    await die(b"x")

    assert len(await moved()) == 1
    assert failures == []


async def test_F13_a_letter_that_postgresql_does_not_take_comes_back_with_its_story(
    die, moved, monkeypatch, queues
):
    """And its neighbours are moved at once."""
    monkeypatch.setattr(dead_letters_role, "AGAIN_S", topology.RETRY_DELAYS_S[0])
    real, refusals = store._write, [asyncpg.DataError("no")] * 2

    async def write(connection, message):
        if message.body == b"odd" and refusals:
            raise refusals.pop()
        return await real(connection, message)

    monkeypatch.setattr(store, "_write", write)
    headers = {"x-reason": "its own", "x-attempts": 4, "x-last-failed-ms": 2_000}
    await die(b"odd", headers)
    await die(b"good")

    even, odd = await moved(2)

    assert refusals == []
    assert (even.body, odd.body) == (b"good", b"odd")
    assert (odd.reason, odd.attempts, odd.last_at.timestamp()) == ("its own", 4, 2)


async def test_each_arrival_is_a_line_and_counts(die, moved, db, caplog):
    def value(name):
        return REGISTRY.get_sample_value(name, {"queue": ORDERS_PLACE}) or 0

    before = value("seckill_dead_letters_arrived_total")
    body = messages.encode_place("demo", 1, [], ["bad"])
    await die(body, {"x-reason": "Expected `array`, got `str`"})
    with caplog.at_level(logging.ERROR, logger="consumers.roles.dead_letters"):
        (letter,) = await moved()

    (line,) = [r.getMessage() for r in caplog.records if r.name == "consumers.roles.dead_letters"]
    assert line == (
        f"dead letter {letter.letter_id} on orders.place, sale demo, 0 orders: "
        f"Expected `array`, got `str`; see: seckill dead show {letter.letter_id}"
    )
    assert value("seckill_dead_letters_arrived_total") == before + 1


async def test_the_alarm_rings_until_no_letter_is_open(db, letters, running, eventually):
    def gauge():
        return REGISTRY.get_sample_value("seckill_dead_letters_open", {"queue": ORDERS_EXPIRE})

    await letters.arrive(b"x", queue=ORDERS_EXPIRE)
    async with running(PollRole("test", OpenLetterCount(db).run_once, idle_s=0.01)):
        await eventually(lambda: gauge() == 1, "the alarm rings")
        await close_all(db, "discarded")
        await eventually(lambda: gauge() == 0, "it is silent")


async def test_when_one_of_several_fails_all_end(running, eventually):
    ended = asyncio.Event()

    class Fails:
        async def run(self, stop):
            raise ZeroDivisionError

    class Waits:
        async def run(self, stop):
            try:
                await stop.wait()
            finally:
                ended.set()

    with pytest.raises(ExceptionGroup) as failure:
        await RoleGroup([Waits(), Fails()]).run(asyncio.Event())

    assert failure.group_contains(ZeroDivisionError)
    assert ended.is_set()


# Looking.


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


async def close_all(db, state):
    async with db.acquire() as connection, connection.transaction():
        for row in await connection.fetch("SELECT letter_id FROM dead_letters"):
            await store.close(connection, row[0], state=state, actor="test", reason=None)
