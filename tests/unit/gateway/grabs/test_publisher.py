"""One message for what waited, and no waiting at all while the broker is unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from gateway.grabs.publisher import (
    MESSAGE_GRABS_MAX,
    PROBE_S,
    PUBLISHES_MAX,
    Breaker,
    GrabPublisher,
)
from seckill.errors import Unavailable
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id
from seckill.stage_times import StageTimes


@dataclass
class Sent:
    """One message as the publisher got it."""

    epoch: int
    batch: list[str]
    buyers: list[str]


class FakePublisher:
    """Publishes that stay open until the test confirms or fails them."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self._confirms: list[asyncio.Future[None]] = []

    async def publish(self, body: bytes) -> None:
        message = msgspec.msgpack.decode(body)
        assert message["sale"] == "spring"
        buyers = [buyer_id for _, buyer_id, _ in message["grabs"]]
        self.sent.append(Sent(message["epoch"], message["batch"], buyers))
        confirm = asyncio.get_running_loop().create_future()
        self._confirms.append(confirm)
        await confirm

    async def confirm(self, number: int) -> None:
        self._confirms[number].set_result(None)
        await turns()

    async def confirm_all(self) -> None:
        """Confirm what is open, and what that lets go out."""
        while open_confirms := [confirm for confirm in self._confirms if not confirm.done()]:
            for confirm in open_confirms:
                confirm.set_result(None)
            await turns()

    async def fail(self, number: int) -> None:
        self._confirms[number].set_exception(Unavailable("not confirmed in 1 s"))
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def grabs(*buyer_ids: str) -> Sequence[Grab]:
    return [Grab(new_order_id(1), buyer_id, 1) for buyer_id in buyer_ids]


@dataclass
class Bench:
    """The publisher of a sale with all that surrounds it."""

    publisher: FakePublisher = field(default_factory=FakePublisher)
    breaker: Breaker = field(default_factory=Breaker)
    confirmed: list[str] = field(default_factory=list)
    #: Of each batch, in the order in which they were enqueued.
    times: list[StageTimes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grabs = GrabPublisher("spring", self.publisher, self.breaker, self.confirmed.extend)

    async def enqueue(
        self, outbox_id: str, *buyer_ids: str, epoch: int = 1
    ) -> asyncio.Future[None]:
        """Enqueue a batch; the future is done when it counts as published: once, and no more."""
        published: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch = grabs(*buyer_ids or ("ann",))
        self.times.append(StageTimes(0.0))
        self.grabs.enqueue(
            outbox_id, epoch, batch, self.times[-1], lambda: published.set_result(None)
        )
        await turns()
        return published

    async def fill(self) -> None:
        """Put as many publishes under way as there may be, so that what follows waits."""
        for number in range(PUBLISHES_MAX):
            await self.enqueue(f"fill-{number}")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Give a bench; confirm at the end what the test has left open."""
    bench = Bench()
    yield bench
    await bench.publisher.confirm_all()
    await bench.grabs.drain()


@pytest.fixture
async def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the loop's clock, by which the breaker probes; the test moves it on."""
    now = 1000.0

    def advance_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    return advance_by


async def test_a_batch_is_published_when_the_broker_has_confirmed_it(bench: Bench) -> None:
    published = await bench.enqueue("1-0", "ann", "bob")
    assert bench.publisher.sent == [Sent(1, ["1-0"], ["ann", "bob"])]
    assert not published.done()
    assert bench.confirmed == []
    await bench.publisher.confirm(0)
    assert published.done()
    assert bench.confirmed == ["1-0"]


async def test_batches_that_wait_go_out_in_one_message(bench: Bench) -> None:
    await bench.fill()
    waiting = [await bench.enqueue("3-0", "ann", "bob"), await bench.enqueue("4-0", "cid")]
    assert len(bench.publisher.sent) == PUBLISHES_MAX
    await bench.publisher.confirm(0)
    merged = bench.publisher.sent[PUBLISHES_MAX]
    assert (merged.batch, merged.buyers) == (["3-0", "4-0"], ["ann", "bob", "cid"])
    await bench.publisher.confirm(PUBLISHES_MAX)
    assert all(published.done() for published in waiting)
    assert bench.confirmed == ["fill-0", "3-0", "4-0"]


async def test_epochs_never_share_a_message(bench: Bench) -> None:
    await bench.fill()
    for outbox_id, epoch in (("3-0", 1), ("4-0", 2), ("5-0", 2), ("6-0", 1)):
        await bench.enqueue(outbox_id, epoch=epoch)
    for number in range(PUBLISHES_MAX + 3):
        await bench.publisher.confirm(number)
    sent = [(m.epoch, m.batch) for m in bench.publisher.sent[PUBLISHES_MAX:]]
    assert sent == [(1, ["3-0"]), (2, ["4-0", "5-0"]), (1, ["6-0"])]


async def test_a_message_holds_what_a_consumer_can_place_at_once(bench: Bench) -> None:
    await bench.fill()
    half = [f"b{n}" for n in range(MESSAGE_GRABS_MAX // 2)]
    for outbox_id in ("3-0", "4-0", "5-0"):
        await bench.enqueue(outbox_id, *half)
    await bench.publisher.confirm(0)
    await bench.publisher.confirm(1)
    assert [m.batch for m in bench.publisher.sent[PUBLISHES_MAX:]] == [["3-0", "4-0"], ["5-0"]]


async def test_a_batch_too_large_for_one_message_still_goes_out(bench: Bench) -> None:
    await bench.enqueue("1-0", *[f"b{n}" for n in range(MESSAGE_GRABS_MAX + 1)])
    assert len(bench.publisher.sent[0].buyers) == MESSAGE_GRABS_MAX + 1


async def test_an_unconfirmed_batch_is_published_from_the_outbox_and_stays_there(
    bench: Bench,
) -> None:
    published = await bench.enqueue("1-0")
    await bench.publisher.fail(0)
    assert published.done()
    assert bench.confirmed == [], "only the relay may drop it, once it is confirmed"
    assert bench.breaker.open


@pytest.mark.usefixtures("advance")
async def test_one_failure_sends_all_that_follows_to_the_outbox(bench: Bench) -> None:
    await bench.fill()
    waiting = await bench.enqueue("3-0")
    await bench.publisher.fail(0)
    assert waiting.done(), "what waited is not held until the broker is back"
    assert (await bench.enqueue("4-0")).done()
    assert [m.batch for m in bench.publisher.sent] == [["fill-0"], ["fill-1"]]
    assert bench.confirmed == []


@pytest.mark.usefixtures("advance")
async def test_the_breaker_is_shared_by_the_sales_of_a_process() -> None:
    one = Bench()
    other = Bench(breaker=one.breaker)
    await one.enqueue("1-0")
    await one.publisher.fail(0)
    assert (await other.enqueue("1-0")).done()
    assert other.publisher.sent == []


async def test_one_batch_a_second_probes_while_the_broker_is_unavailable(
    bench: Bench, advance: Callable[[float], None]
) -> None:
    await bench.enqueue("1-0")
    await bench.publisher.fail(0)

    advance(PROBE_S - 0.01)
    assert (await bench.enqueue("2-0")).done()
    assert len(bench.publisher.sent) == 1

    advance(0.01)
    probe = await bench.enqueue("3-0")
    assert (await bench.enqueue("4-0")).done(), "one probe is enough"
    assert [m.batch for m in bench.publisher.sent[1:]] == [["3-0"]]
    assert not probe.done()

    await bench.publisher.fail(1)
    assert probe.done()
    assert (await bench.enqueue("5-0")).done(), "a failed probe is followed by another second"
    assert len(bench.publisher.sent) == 2


async def test_a_confirmed_probe_ends_the_outage(
    bench: Bench, advance: Callable[[float], None]
) -> None:
    await bench.enqueue("1-0")
    await bench.publisher.fail(0)
    advance(PROBE_S)
    await bench.enqueue("2-0")
    await bench.publisher.confirm(1)
    assert not bench.breaker.open
    published = await bench.enqueue("3-0")
    assert not published.done()
    await bench.publisher.confirm(2)
    assert published.done()
    assert bench.confirmed == ["2-0", "3-0"]


async def test_drain_waits_for_every_confirm(bench: Bench) -> None:
    await bench.fill()
    await bench.enqueue("3-0")
    drained = asyncio.create_task(bench.grabs.drain())
    for number in range(PUBLISHES_MAX + 1):
        await turns()
        assert not drained.done()
        await bench.publisher.confirm(number)
    await turns()
    assert drained.done()
    assert bench.confirmed == ["fill-0", "fill-1", "3-0"]


def test_the_end_of_the_loop_leaves_what_waits_in_the_outbox() -> None:
    async def enqueue_one_too_many() -> tuple[Bench, asyncio.Future[None]]:
        bench = Bench()
        await bench.fill()
        return bench, await bench.enqueue("waits")

    bench, published = asyncio.run(enqueue_one_too_many())
    assert published.done()
    assert not published.cancelled()
    assert len(bench.publisher.sent) == PUBLISHES_MAX


async def test_a_batch_keeps_when_its_message_was_published_and_confirmed(bench: Bench) -> None:
    await bench.enqueue("1-0")
    (times,) = bench.times
    assert times.published_at > 0
    assert times.confirmed_at == 0

    await bench.publisher.confirm(0)
    assert times.confirmed_at >= times.published_at


async def test_a_batch_that_stays_in_the_outbox_was_not_confirmed(bench: Bench) -> None:
    await bench.enqueue("1-0")
    await bench.publisher.fail(0)
    await bench.enqueue("2-0")

    failed, left = bench.times
    assert failed.published_at > 0
    assert failed.confirmed_at == left.published_at == 0
