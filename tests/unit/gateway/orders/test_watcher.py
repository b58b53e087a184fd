"""The watcher of orders: one query a tick, while a client waits, and every stream its changes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from gateway.http.problems import Problem, Refused
from gateway.orders.event_stream import SEND_BUFFER, UNACKNOWLEDGED_MS, bound_connection
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
async def watcher(rows: Rows) -> AsyncIterator[OrderWatcher]:
    watcher = OrderWatcher(rows.find_changed, slots_max=10, tick_s=TICK_S)
    yield watcher
    watcher.close()


def enter(
    stack: ExitStack, watcher: OrderWatcher, order_id: str, buyer_id: str, seen: str
) -> StreamSlot:
    slot = stack.enter_context(watcher.slot(order_id, buyer_id))
    slot.seen = seen
    return slot


def ticking() -> list[asyncio.Task[object]]:
    """Return the tasks that ask, without those of tests before, which are about to end."""
    named = [task for task in asyncio.all_tasks() if task.get_name() == "order watcher"]
    return [task for task in named if not task.cancelling()]


async def next_state(slot: StreamSlot) -> str | None:
    change = await slot.next_change(LONG_S)
    return change and change.state


async def test_each_stream_that_has_not_seen_a_change_gets_it_once(
    rows: Rows, watcher: OrderWatcher
) -> None:
    with ExitStack() as stack:
        old = enter(stack, watcher, "o1", "a", "queued")
        new = enter(stack, watcher, "o1", "a", "pending")
        other = enter(stack, watcher, "o2", "b", "queued")
        rows.states = {"o1": "pending"}
        assert await next_state(old) == "pending"
        await rows.asked_again()
        rows.states = {"o1": "cancelled"}
        assert [await next_state(old), await next_state(new)] == ["cancelled", "cancelled"]
        await rows.asked_again()
        assert await other.next_change(0) is None
        assert await new.next_change(0) is None


async def test_all_orders_are_asked_about_in_one_query_each_once(
    rows: Rows, watcher: OrderWatcher
) -> None:
    with ExitStack() as stack:
        for order_id in ("o1", "o1", "o2", "o3"):
            enter(stack, watcher, order_id, "a", "queued")
        await rows.asked_again()
    assert rows.asked[0] == {
        KnownState("o1", "queued"),
        KnownState("o2", "queued"),
        KnownState("o3", "queued"),
    }


async def test_nothing_is_asked_while_no_client_waits(rows: Rows, watcher: OrderWatcher) -> None:
    assert ticking() == []
    with watcher.slot("o1", "a") as slot:
        slot.seen = "queued"
        await rows.asked_again()
    (task,) = ticking()
    await asyncio.wait({task}, timeout=LONG_S)
    assert task.done()
    assert ticking() == []
    with watcher.slot("o1", "a") as slot:  # and it begins again
        slot.seen = "queued"
        await rows.asked_again()


async def test_a_stream_that_read_a_newer_state_gets_no_older_one(
    rows: Rows, watcher: OrderWatcher
) -> None:
    with ExitStack() as stack:
        early = enter(stack, watcher, "o1", "a", "queued")
        rows.states = {"o1": "pending"}
        rows.gate.clear()
        await rows.asked_again()  # its answer will be "pending"
        late = enter(stack, watcher, "o1", "a", "cancelled")
        rows.gate.set()
        assert await next_state(early) == "pending"
        assert await late.next_change(0) is None


async def test_a_stream_without_its_first_state_gets_no_change(
    rows: Rows, watcher: OrderWatcher
) -> None:
    rows.states = {"o1": "pending", "o2": "pending"}
    with watcher.slot("o1", "a") as reading, watcher.slot("o2", "b") as ready:
        ready.seen = "queued"
        assert await next_state(ready) == "pending"
        assert await reading.next_change(0) is None


async def test_a_store_that_is_unavailable_ends_nothing_and_is_asked_again(
    rows: Rows, watcher: OrderWatcher
) -> None:
    with watcher.slot("o1", "a") as slot:
        slot.seen = "queued"
        rows.error = Unavailable("no answer")
        rows.states = {"o1": "pending"}
        for _ in range(3):
            await rows.asked_again()
        assert not slot.ended
        rows.error = None
        assert await next_state(slot) == "pending"


async def test_a_late_client_gets_the_newest_change_only(rows: Rows, watcher: OrderWatcher) -> None:
    with watcher.slot("o1", "a") as slot:
        slot.put(order("o1", "pending"))
        slot.put(order("o1", "cancelled"))
        assert await next_state(slot) == "cancelled"
        assert await slot.next_change(0) is None


async def test_a_bug_ends_the_streams_and_is_logged(rows: Rows, watcher: OrderWatcher) -> None:
    logged: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: logged.append(context))
    try:
        with watcher.slot("o1", "a") as slot:
            slot.seen = "queued"
            rows.error = KeyError("bug")
            assert await slot.next_change(LONG_S) is None
            assert slot.ended
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert [context["exception"] for context in logged] == [rows.error]


async def test_a_client_beyond_the_last_slot_is_refused_until_one_is_free(
    watcher: OrderWatcher,
) -> None:
    with ExitStack() as stack:
        for n in range(10):
            enter(stack, watcher, f"o{n}", f"b{n}", "queued")
        with pytest.raises(Refused) as refused, watcher.slot("o", "b"):
            pass
        assert refused.value.problem is Problem.OVERLOADED
        assert watcher.slots_taken == 10
    with watcher.slot("o", "b"):
        assert watcher.slots_taken == 1


async def test_a_buyer_keeps_their_newest_streams(watcher: OrderWatcher) -> None:
    with ExitStack() as stack:
        other = enter(stack, watcher, "o0", "b", "queued")
        of_one = [enter(stack, watcher, f"o{n}", "a", "queued") for n in range(8)]
        assert [slot.ended for slot in of_one] == [True] * (8 - PER_BUYER_MAX) + [
            False
        ] * PER_BUYER_MAX
        assert not other.ended


async def test_closing_ends_all_streams_and_those_that_still_begin(
    rows: Rows, watcher: OrderWatcher
) -> None:
    with watcher.slot("o1", "a") as slot:
        slot.put(order("o1", "pending"))
        watcher.close()
        assert await next_state(slot) == "pending", "what lay there is still taken"
        assert slot.ended
        with watcher.slot("o2", "b") as late:
            assert late.ended
            assert await late.next_change(LONG_S) is None


async def test_a_stream_has_a_small_buffer_and_a_dead_client_does_not_keep_it() -> None:
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
        assert await options == (2 * SEND_BUFFER, UNACKNOWLEDGED_MS)  # Linux doubles the first
        writer.close()
        await writer.wait_closed()
