"""dead_letters: what lies in a dead queue becomes a row in SQL, once, whatever it is."""

from __future__ import annotations

import asyncio
from functools import partial

import asyncpg
import pytest

from consumers.roles import dead_letters as dead_letters_role
from consumers.roles.dead_letters import StoreDeadLetters
from consumers.runtime.role import RoleGroup
from seckill import messages
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_PLACE
from seckill.dead_letters import store
from seckill.dead_letters.parser import NamedOrder
from tests.transactions import Killed


async def test_a_dead_letter_has_all_that_is_known_of_it(open_sale, shop, put_dead, moved):
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
    await put_dead(body, headers)

    (letter,) = await moved()

    assert (letter.queue, letter.sale_id, letter.state) == (ORDERS_PLACE, sale.sale_id, "open")
    assert (letter.reason, letter.stack, letter.attempts) == (
        "PostgreSQL refuses it", "Traceback", 4,
    )  # fmt: skip
    assert (letter.last_at - letter.first_at).total_seconds() == 3
    assert (letter.body, letter.headers) == (body, headers)
    assert letter.orders == (NamedOrder(ann.order_id, "ann", 2),)
    assert (letter.deaths, letter.replays) == (1, 0)


async def test_a_dead_multi_sale_message_is_a_letter_for_each_of_its_parts(
    open_sale, shop, put_dead, moved
):
    sales = [await open_sale(), await open_sale()]
    wishes = [shop.wish(sale, "ann") for sale in sales]
    bodies = [messages.encode_place(w.sale_id, 1, [], [[w.order_id, "ann", 1]]) for w in wishes]
    await put_dead(messages.encode_multi_sale(bodies), {"x-reason": "test"})

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
async def test_F13_unreadable_bytes_are_kept(put_dead, moved, body):
    odd = bytearray(b"\xff\0")
    await put_dead(body, {"x-reason": "NUL \0 and more", "x-stack": odd, "x": [odd, {"\0": 1}]})

    (letter,) = await moved()

    assert letter.body == body
    assert letter.reason == "NUL \\0 and more"


async def test_F13_letters_of_all_queues_are_moved(
    put_dead, moved, letters, mover, running, eventually
):
    for queue in topology.WORK_QUEUES:
        await put_dead(b"same", queue=queue)

    async def all_moved():
        return {letter.queue for letter in await letters.all()} == set(topology.WORK_QUEUES)

    async with running(RoleGroup([mover(queue) for queue in topology.WORK_QUEUES])):
        await eventually(all_moved, "a letter of each queue")


async def test_F20_a_copy_counts_on_the_letter_of_the_first(
    put_dead, letters, mover, running, eventually
):
    """It was dead-lettered twice, because an ack was lost: the letter has the later reason."""
    await put_dead(
        b"x", {"x-reason": "first", "x-first-failed-ms": 1_000, "x-last-failed-ms": 2_000}
    )
    await put_dead(
        b"x", {"x-reason": "second", "x-first-failed-ms": 1_500, "x-last-failed-ms": 3_000}
    )

    async def twice():
        return [letter for letter in await letters.all() if letter.deaths == 2]

    async with running(mover()):
        (letter,) = await eventually(twice, "both have arrived")

    assert letter.reason == "second"
    assert (letter.first_at.timestamp(), letter.last_at.timestamp()) == (1, 3)


async def test_F20_a_message_moved_before_its_ack_was_lost_is_one_letter(
    put_dead, db, letters, mover, running, eventually, queues
):
    """The role is killed after its commit; the message is delivered again, and found written."""
    await put_dead(b"x", {"x-reason": "why", "x-last-failed-ms": 2_000})
    handler = StoreDeadLetters(db, ORDERS_PLACE)

    async def is_killed_after_commit(batch):
        await handler.handle(batch)
        raise Killed

    with pytest.raises(Killed):
        await mover(handle=is_killed_after_commit).run(asyncio.Event())
    (first,) = await letters.all()
    again = []

    async def handle(batch):
        await handler.handle(batch)
        again.extend(batch)

    async with running(mover(handle=handle)):
        await eventually(lambda: again, "delivered again")

    assert again[0].redelivered
    assert await letters.all() == [first]


async def test_F23_a_message_that_kills_its_consumers_is_a_letter_that_says_so(
    open_sale, shop, publisher, queue_role, queues, eventually, moved
):
    """The broker moves it itself, after its delivery limit."""
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    body = messages.encode_place(sale.sale_id, 1, [], [[ann.order_id, "ann", 1]])
    await publisher.publish(ORDERS_PLACE, body)

    async def is_killed(_):
        raise Killed

    async def is_dead():
        return await queues.size(topology.dead(ORDERS_PLACE))

    async def has_ended(role):
        return role.done() or await is_dead()

    for _ in range(topology.DELIVERY_LIMIT + 5):
        stop = asyncio.Event()
        role = asyncio.create_task(queue_role(ORDERS_PLACE, is_killed).run(stop))
        await eventually(partial(has_ended, role), "the consumer has died, or the message is dead")
        stop.set()
        await asyncio.gather(role, return_exceptions=True)
        if await is_dead():
            break

    (letter,) = await moved()

    assert "delivered 20 times without an answer" in letter.reason
    assert letter.attempts == topology.DELIVERY_LIMIT
    assert [order.order_id for order in letter.orders] == [ann.order_id]
    assert letter.body == body


UNAVAILABLE = {
    "connection lost": lambda: asyncpg.ConnectionDoesNotExistError("connection was closed"),
    "lock timeout": lambda: asyncpg.LockNotAvailableError("lock timeout"),
    "too slow": TimeoutError,
}


@pytest.mark.parametrize("error", UNAVAILABLE.values(), ids=UNAVAILABLE)
async def test_F13_while_postgresql_is_unavailable_letters_are_held_and_then_moved(
    put_dead, moved, monkeypatch, error
):
    real, failures = store.write, [error(), error()]

    async def write(*args):
        if failures:
            raise failures.pop()
        return await real(*args)

    monkeypatch.setattr(store, "write", write)
    await put_dead(b"x")

    assert len(await moved()) == 1
    assert failures == []


async def test_F13_a_letter_that_postgresql_does_not_take_comes_back_with_its_headers(
    put_dead, moved, monkeypatch, queues
):
    """And its neighbours are moved at once."""
    monkeypatch.setattr(dead_letters_role, "AGAIN_S", topology.RETRY_DELAYS_S[0])
    real, refusals = store.write, [asyncpg.DataError("no")] * 2

    async def write(connection, message):
        if message.body == b"odd" and refusals:
            raise refusals.pop()
        return await real(connection, message)

    monkeypatch.setattr(store, "write", write)
    headers = {"x-reason": "its own", "x-attempts": 4, "x-last-failed-ms": 2_000}
    await put_dead(b"odd", headers)
    await put_dead(b"good")

    even, odd = await moved(2)

    assert refusals == []
    assert (even.body, odd.body) == (b"good", b"odd")
    assert (odd.reason, odd.attempts, odd.last_at.timestamp()) == ("its own", 4, 2)


@pytest.mark.parametrize("times", [dead_letters_role.TOO_OFTEN[0], topology.DELIVERY_LIMIT + 5])
async def test_F23_a_letter_whose_role_is_killed_again_and_again_is_kept(
    put_dead, moved, queues, monkeypatch, times
):
    """RabbitMQ 4 drops a message that was delivered 20 times, unless its queue says otherwise."""
    monkeypatch.setattr(dead_letters_role, "AGAIN_S", topology.RETRY_DELAYS_S[0])
    name = topology.dead(ORDERS_PLACE)
    await put_dead(b"x", {"x-reason": "its own", "x-last-failed-ms": 2_000})
    for _ in range(times):
        (message,) = await queues.take(name, 1, no_ack=False)
        await message.reject(requeue=True)

    (letter,) = await moved()

    assert (letter.body, letter.reason, letter.deaths) == (b"x", "its own", 1)
    assert letter.headers.get("x-delivery-count", times) == times
    assert await queues.size(name) == 0
