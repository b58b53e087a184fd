"""The watcher of orders: one query a tick, while somebody waits, told to all whom it concerns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from gateway.http.problems import Problem, Refused
from gateway.orders.event_stream import SEND_BUFFER, UNHEARD_MS, bound_connection
from gateway.orders.watcher import PER_BUYER_MAX, OrderWatcher, StreamSlot
from seckill.errors import Unavailable
from seckill.orders.orders import KnownState, Order

TICK_S = 0.001
#: Longer than any wait here; a failing test ends by it.
LONG_S = 10.0


def order(order_id: str, state: str) -> Order:
    return Order(order_id, "sale", "buyer", 1, 100, state, None, datetime.now(UTC))


class Rows:
    """Rows under the test's control, and what was asked of them."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.asked: list[set[KnownState]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self._began = asyncio.Event()

    async def find_changed(self, seen: Collection[KnownState]) -> list[Order]:
        self.asked.append(set(seen))
        self._began.set()
        now = dict(self.states)
        await self.gate.wait()
        if self.error:
            raise self.error
        return [
            order(s.order_id, now[s.order_id])
            for s in seen
            if s.order_id in now and now[s.order_id] != s.state
        ]

    async def asked_again(self) -> None:
        """Return when the next query has begun."""
        self._began.clear()
        async with asyncio.timeout(LONG_S):
            await self._began.wait()


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
async def watch(rows: Rows) -> AsyncIterator[OrderWatcher]:
    watch = OrderWatcher(rows.find_changed, places_max=10, tick_s=TICK_S)
    yield watch
    watch.close()


def enter(
    stack: ExitStack, watch: OrderWatcher, order_id: str, buyer_id: str, seen: str
) -> StreamSlot:
    place = stack.enter_context(watch.place(order_id, buyer_id))
    place.seen = seen
    return place


async def next_state(place: StreamSlot) -> str | None:
    change = await place.next_change(LONG_S)
    return change and change.state


async def test_a_change_is_told_once_to_all_who_have_not_seen_it(
    rows: Rows, watch: OrderWatcher
) -> None:
    with ExitStack() as stack:
        old = enter(stack, watch, "o1", "a", "queued")
        new = enter(stack, watch, "o1", "a", "pending")
        other = enter(stack, watch, "o2", "b", "queued")
        rows.states = {"o1": "pending"}
        assert await next_state(old) == "pending"
        await rows.asked_again()
        rows.states = {"o1": "cancelled"}
        assert [await next_state(old), await next_state(new)] == ["cancelled", "cancelled"]
        await rows.asked_again()
        assert await other.next_change(0) is None
        assert await new.next_change(0) is None


async def test_all_orders_are_asked_about_in_one_query_each_once(
    rows: Rows, watch: OrderWatcher
) -> None:
    with ExitStack() as stack:
        for order_id in ("o1", "o1", "o2", "o3"):
            enter(stack, watch, order_id, "a", "queued")
        await rows.asked_again()
    assert rows.asked[0] == {
        KnownState("o1", "queued"),
        KnownState("o2", "queued"),
        KnownState("o3", "queued"),
    }


async def test_nothing_is_asked_while_nobody_waits(rows: Rows, watch: OrderWatcher) -> None:
    await asyncio.sleep(TICK_S * 5)
    assert rows.asked == []
    with watch.place("o1", "a") as place:
        place.seen = "queued"
        await rows.asked_again()
    ticking = [task for task in asyncio.all_tasks() if task.get_name() == "order-watch"]
    await asyncio.wait(ticking, timeout=LONG_S)
    assert [task.done() for task in ticking] == [True]
    with watch.place("o1", "a") as place:  # and it begins again
        place.seen = "queued"
        await rows.asked_again()


async def test_who_learned_a_newer_state_is_not_told_an_older_one(
    rows: Rows, watch: OrderWatcher
) -> None:
    with ExitStack() as stack:
        early = enter(stack, watch, "o1", "a", "queued")
        rows.states = {"o1": "pending"}
        rows.gate.clear()
        await rows.asked_again()  # its answer will be "pending"
        late = enter(stack, watch, "o1", "a", "cancelled")
        rows.gate.set()
        assert await next_state(early) == "pending"
        assert await late.next_change(0) is None


async def test_who_has_not_been_told_the_first_state_is_not_told_a_change(
    rows: Rows, watch: OrderWatcher
) -> None:
    rows.states = {"o1": "pending", "o2": "pending"}
    with watch.place("o1", "a") as reading, watch.place("o2", "b") as ready:
        ready.seen = "queued"
        assert await next_state(ready) == "pending"
        assert await reading.next_change(0) is None


async def test_a_store_that_is_away_ends_nothing_and_is_asked_again(
    rows: Rows, watch: OrderWatcher
) -> None:
    with watch.place("o1", "a") as place:
        place.seen = "queued"
        rows.error = Unavailable("away")
        rows.states = {"o1": "pending"}
        for _ in range(3):
            await rows.asked_again()
        assert not place.ended
        rows.error = None
        assert await next_state(place) == "pending"


async def test_a_late_client_gets_the_newest_change_only(rows: Rows, watch: OrderWatcher) -> None:
    with watch.place("o1", "a") as place:
        place.tell(order("o1", "pending"))
        place.tell(order("o1", "cancelled"))
        assert await next_state(place) == "cancelled"
        assert await place.next_change(0) is None


async def test_a_bug_ends_the_streams_and_is_heard(rows: Rows, watch: OrderWatcher) -> None:
    heard: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        with watch.place("o1", "a") as place:
            place.seen = "queued"
            rows.error = KeyError("bug")
            assert await place.next_change(LONG_S) is None
            assert place.ended
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert [context["exception"] for context in heard] == [rows.error]


async def test_beyond_the_last_place_is_overloaded_until_one_is_free(watch: OrderWatcher) -> None:
    with ExitStack() as stack:
        for n in range(10):
            enter(stack, watch, f"o{n}", f"b{n}", "queued")
        with pytest.raises(Refused) as refused, watch.place("o", "b"):
            pass
        assert refused.value.problem is Problem.OVERLOADED
        assert watch.places_taken == 10
    with watch.place("o", "b"):
        assert watch.places_taken == 1


async def test_a_buyer_keeps_his_newest_streams(watch: OrderWatcher) -> None:
    with ExitStack() as stack:
        other = enter(stack, watch, "o0", "b", "queued")
        his = [enter(stack, watch, f"o{n}", "a", "queued") for n in range(8)]
        assert [place.ended for place in his] == [True] * (8 - PER_BUYER_MAX) + [
            False
        ] * PER_BUYER_MAX
        assert not other.ended


async def test_closing_lets_all_go_and_whoever_still_comes(rows: Rows, watch: OrderWatcher) -> None:
    with watch.place("o1", "a") as place:
        place.tell(order("o1", "pending"))
        watch.close()
        assert await next_state(place) == "pending", "what lay there is still taken"
        assert place.ended
        with watch.place("o2", "b") as late:
            assert late.ended
            assert await late.next_change(LONG_S) is None


async def test_a_stream_has_a_small_buffer_and_is_not_kept_for_the_dead() -> None:
    options: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bound_connection(writer.transport)
        sock = writer.get_extra_info("socket")
        options.set_result(
            (
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        )
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await options == (2 * SEND_BUFFER, UNHEARD_MS)  # Linux doubles the first
        writer.close()
        await writer.wait_closed()
