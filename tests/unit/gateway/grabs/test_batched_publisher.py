"""Small messages go together, large ones alone; each is answered with what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from gateway.grabs.publisher import SMALL, SMALL_PUBLISHES_MAX, BatchedPublisher
from seckill import messages
from seckill.adapters.publisher import Publisher
from seckill.adapters.topology import ORDERS_PLACE
from seckill.errors import Unavailable
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id


class Post:
    """A publisher whose publishes stay open until the test confirms or fails them."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.confirms: list[asyncio.Future[None]] = []

    async def publish(self, queue: str, body: bytes) -> None:
        assert queue == ORDERS_PLACE
        self.sent.append(body)
        self.confirms.append(asyncio.get_running_loop().create_future())
        await self.confirms[-1]

    def confirm_all(self) -> None:
        for confirm in self.confirms:
            if not confirm.done():
                confirm.set_result(None)


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
async def publisher(post: Post) -> BatchedPublisher:
    return BatchedPublisher(cast(Publisher, post), timeout_s=10)


def message(sale_id: str, grabs: int = 1) -> bytes:
    wishes = [Grab(new_order_id(1), f"b{n}", 1) for n in range(grabs)]
    return messages.encode_place(sale_id, 1, [], wishes)


async def put(publisher: BatchedPublisher, bodies: Sequence[bytes]) -> list[asyncio.Task[None]]:
    """Put messages in, all in one turn of the loop."""
    tasks = [asyncio.create_task(publisher.publish(body)) for body in bodies]
    await turns()
    return tasks


async def turns() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def test_a_lone_message_goes_as_it_is(publisher: BatchedPublisher, post: Post) -> None:
    alone = message("spring")
    (task,) = await put(publisher, [alone])
    assert post.sent == [alone]
    assert not task.done()
    post.confirm_all()
    await task


async def test_small_messages_of_one_moment_share_a_multi_sale_message(
    publisher: BatchedPublisher, post: Post
) -> None:
    small = [message(f"sale-{n}") for n in range(10)]
    tasks = await put(publisher, small)
    (multi_sale_message,) = post.sent
    assert messages.parts_of(multi_sale_message) == small
    assert not any(task.done() for task in tasks)
    post.confirm_all()
    await asyncio.gather(*tasks)


async def test_a_large_message_travels_alone(publisher: BatchedPublisher, post: Post) -> None:
    large = message("hot", grabs=SMALL // 40)
    small = [message("spring"), message("summer")]
    tasks = await put(publisher, [small[0], large, small[1]])
    assert sorted(map(messages.parts_of, post.sent), key=len) == [[large], small]
    post.confirm_all()
    await asyncio.gather(*tasks)


async def test_beyond_the_publishes_under_way_messages_wait_and_go_together(
    publisher: BatchedPublisher, post: Post
) -> None:
    tasks = []
    for n in range(SMALL_PUBLISHES_MAX):
        tasks += await put(publisher, [message(f"first-{n}")])
    for n in range(5):
        tasks += await put(publisher, [message(f"second-{n}")])
    assert len(post.sent) == SMALL_PUBLISHES_MAX
    post.confirms[0].set_result(None)
    await turns()
    assert len(messages.parts_of(post.sent[-1])) == 5
    post.confirm_all()
    await asyncio.gather(*tasks)


async def test_a_multi_sale_message_has_its_limit(publisher: BatchedPublisher, post: Post) -> None:
    tasks = await put(publisher, [message("spring")] * (messages.PARTS_MAX + 1))
    assert [len(messages.parts_of(body)) for body in post.sent] == [messages.PARTS_MAX, 1]
    post.confirm_all()
    await asyncio.gather(*tasks)


async def test_what_is_not_confirmed_is_so_for_all_of_a_multi_sale_message(
    publisher: BatchedPublisher, post: Post
) -> None:
    tasks = await put(publisher, [message("spring"), message("summer")])
    post.confirms[0].set_exception(Unavailable("not confirmed in 1 s"))
    for task in tasks:
        with pytest.raises(Unavailable, match="not confirmed"):
            await task


async def test_a_message_that_waits_behind_a_stuck_broker_has_a_time_limit(post: Post) -> None:
    publisher = BatchedPublisher(cast(Publisher, post), timeout_s=0.05)
    tasks = []
    for n in range(SMALL_PUBLISHES_MAX + 1):
        tasks += await put(publisher, [message(f"sale-{n}")])
    for task in tasks:
        with pytest.raises(Unavailable, match="not confirmed"):
            await task
    post.confirm_all()
    await turns()
    assert len(post.sent) == SMALL_PUBLISHES_MAX  # the last no longer waits
