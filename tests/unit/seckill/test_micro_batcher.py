"""The micro-batcher: what arrived while the last call was under way goes out together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from seckill.micro_batcher import (
    WHOLE_REST_ITEMS,
    WORTH_A_CALL,
    MicroBatcher,
    Waiter,
    answering_each,
)


class Calls:
    """Calls under the test's control: each stays open until the test lets it return."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._open: list[asyncio.Future[None]] = []

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        gate = asyncio.get_running_loop().create_future()
        self._open.append(gate)
        await gate
        return [item * 10 for item in items]

    def unfinished(self) -> list[int]:
        """Return the numbers of the calls that are still open."""
        return [number for number, gate in enumerate(self._open) if not gate.done()]

    async def finish(self, number: int, error: BaseException | None = None) -> None:
        """Let the call with this number return or fail, and its consequences happen."""
        if error:
            self._open[number].set_exception(error)
        else:
            self._open[number].set_result(None)
        await settle()

    async def finish_all(self) -> None:
        """Let every call return that is under way, so that none outlives its test."""
        while unfinished := self.unfinished():
            for number in unfinished:
                await self.finish(number)


async def settle() -> None:
    """Give the loop the turns that a finished future needs to start the next call."""
    for _ in range(5):
        await asyncio.sleep(0)


def batcher(
    call: Calls, *, max_batch: int = 100, max_calls: int = 1, spacing_s: float = 0
) -> MicroBatcher[int, int]:
    return MicroBatcher(
        answering_each(call), max_batch=max_batch, max_calls=max_calls, spacing_s=spacing_s
    )


async def test_a_lone_item_does_not_wait() -> None:
    calls = Calls()
    future = batcher(calls).submit(1)
    await settle()
    assert calls.batches == [[1]]
    await calls.finish(0)
    assert await future == 10


async def test_what_arrives_in_one_turn_of_the_loop_goes_out_together() -> None:
    calls = Calls()
    b = batcher(calls, max_calls=2)
    futures = [b.submit(n) for n in (1, 2, 3)]
    await settle()
    assert calls.batches == [[1, 2, 3]]
    await calls.finish(0)
    assert await asyncio.gather(*futures) == [10, 20, 30]


async def test_items_are_in_hand_until_their_call_returns() -> None:
    calls = Calls()
    b = batcher(calls, max_batch=2)
    futures = [b.submit(n) for n in (1, 2, 3)]
    assert b.in_flight == 3
    await settle()
    assert b.in_flight == 3
    await calls.finish(0)
    assert b.in_flight == 1
    await calls.finish(1, ValueError("broken"))
    assert b.in_flight == 0
    await asyncio.gather(*futures, return_exceptions=True)


async def test_what_arrives_during_a_call_goes_out_together_after_it_in_order() -> None:
    calls = Calls()
    b = batcher(calls)
    first = b.submit(1)
    await settle()
    rest = []
    for n in (2, 3, 4):
        rest.append(b.submit(n))
        await settle()
    assert calls.batches == [[1]]
    assert b.calls == 1
    await calls.finish(0)
    assert calls.batches == [[1], [2, 3, 4]]
    await calls.finish(1)
    assert await asyncio.gather(first, *rest) == [10, 20, 30, 40]
    assert b.calls == 0


async def test_a_call_takes_at_most_max_batch() -> None:
    calls = Calls()
    b = batcher(calls, max_batch=2)
    futures = [b.submit(n) for n in range(5)]
    for number in range(3):
        await settle()
        await calls.finish(number)
    assert calls.batches == [[0, 1], [2, 3], [4]]
    assert await asyncio.gather(*futures) == [0, 10, 20, 30, 40]


async def test_at_most_max_calls_are_under_way() -> None:
    calls = Calls()
    b = batcher(calls, max_batch=1, max_calls=2)
    futures = [b.submit(n) for n in range(4)]
    await settle()
    assert calls.batches == [[0], [1]]
    await calls.finish(1)
    assert calls.batches == [[0], [1], [2]], "the one that ended made room, whichever it was"
    for number in (0, 2, 3):
        await calls.finish(number)
    assert await asyncio.gather(*futures) == [0, 10, 20, 30]


async def test_who_has_left_is_not_in_the_call() -> None:
    calls = Calls()
    b = batcher(calls, max_batch=2)
    futures = [b.submit(n) for n in range(4)]
    futures[1].cancel()
    await settle()
    assert calls.batches == [[0, 2]], "the place of the one who left is taken by the next"
    await calls.finish(0)
    await calls.finish(1)
    assert [await futures[n] for n in (0, 2, 3)] == [0, 20, 30]


async def test_nothing_is_called_when_all_have_left() -> None:
    calls = Calls()
    b = batcher(calls)
    b.submit(1).cancel()
    await settle()
    assert (calls.batches, b.calls) == ([], 0)


@pytest.mark.parametrize("error", [None, ValueError("no")])
async def test_leaving_during_the_call_disturbs_no_other_caller(error: ValueError | None) -> None:
    calls = Calls()
    b = batcher(calls)
    futures = [b.submit(n) for n in range(3)]
    await settle()
    futures[1].cancel()
    await calls.finish(0, error)
    others = await asyncio.gather(futures[0], futures[2], return_exceptions=True)
    assert others == ([error, error] if error else [0, 20])


async def test_an_exception_reaches_every_caller_of_the_call_and_no_other() -> None:
    calls = Calls()
    b = batcher(calls)
    failing = [b.submit(n) for n in range(2)]
    await settle()
    waiting = b.submit(2)
    error = RuntimeError("no answer")
    await calls.finish(0, error)
    assert await asyncio.gather(*failing, return_exceptions=True) == [error, error]
    await calls.finish(1)
    assert await waiting == 20


async def test_a_call_that_loses_a_result_leaves_no_caller_waiting() -> None:
    async def lose(items: Sequence[int]) -> Sequence[int]:
        return items[:1]

    b: MicroBatcher[int, int] = MicroBatcher(answering_each(lose), max_batch=10, max_calls=1)
    kept, lost = b.submit(1), b.submit(2)
    assert await kept == 1
    with pytest.raises(ValueError, match="shorter"):
        await lost


def test_the_end_of_the_loop_cancels_who_waits_and_starts_no_call() -> None:
    calls = Calls()

    async def submit_two() -> list[asyncio.Future[int]]:
        b = batcher(calls, max_batch=1)
        futures = [b.submit(1), b.submit(2)]
        await settle()
        return futures

    futures = asyncio.run(submit_two())
    assert calls.batches == [[1]]
    assert all(future.cancelled() for future in futures)


async def test_a_call_that_is_cancelled_from_within_stops_no_other() -> None:
    calls = Calls()
    b = batcher(calls, max_batch=1)
    futures = [b.submit(1), b.submit(2)]
    await settle()
    await calls.finish(0, asyncio.CancelledError())
    assert futures[0].cancelled()
    await calls.finish(1)
    assert await futures[1] == 20


async def test_a_call_may_answer_after_it_has_returned() -> None:
    later: list[Waiter[int, int]] = []

    async def keep(batch: Sequence[Waiter[int, int]]) -> None:
        later.extend(batch)

    b: MicroBatcher[int, int] = MicroBatcher(keep, max_batch=10, max_calls=1)
    futures = [b.submit(1), b.submit(2)]
    await settle()
    assert b.calls == 0, "the next call need not wait for these answers"
    assert not any(future.done() for future in futures)
    futures[0].cancel()
    for pending in later:
        pending.answer(pending.item * 10)
    assert await futures[1] == 20


async def test_a_call_that_fails_half_way_takes_no_answer_back() -> None:
    async def answer_one(batch: Sequence[Waiter[int, int]]) -> None:
        batch[0].answer(10)
        raise RuntimeError("half way")

    b: MicroBatcher[int, int] = MicroBatcher(answer_one, max_batch=10, max_calls=1)
    first, second = b.submit(1), b.submit(2)
    assert await first == 10
    with pytest.raises(RuntimeError, match="half way"):
        await second


@pytest.mark.parametrize("seed", range(20))
async def test_every_caller_gets_its_own_result_in_any_schedule(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    calls = Calls()
    max_batch, max_calls = rng.randint(1, 5), rng.randint(1, 3)
    b = batcher(calls, max_batch=max_batch, max_calls=max_calls)
    futures: list[asyncio.Future[int]] = []
    left: set[int] = set()

    for _ in range(300):
        match rng.choice(["submit", "submit", "finish", "turn", "leave"]):
            case "submit":
                futures.append(b.submit(len(futures)))
            case "finish" if calls.unfinished():
                await calls.finish(rng.choice(calls.unfinished()))
            case "leave" if futures:
                number = rng.randrange(len(futures))
                if futures[number].cancel():
                    left.add(number)
            case _:
                await asyncio.sleep(0)
        assert b.calls <= max_calls
    await settle()
    while calls.unfinished():
        await calls.finish(rng.choice(calls.unfinished()))

    called = [item for batch in calls.batches for item in batch]
    assert called == sorted(set(called)), "each once, in order of arrival"
    assert set(range(len(futures))) - left <= set(called)
    assert all(1 <= len(batch) <= max_batch for batch in calls.batches)
    assert [f.result() for n, f in enumerate(futures) if n not in left] == [
        n * 10 for n in range(len(futures)) if n not in left
    ]


async def test_what_follows_a_call_closely_goes_together_when_the_spacing_is_over() -> None:
    calls = Calls()
    spaced = batcher(calls, max_calls=2, spacing_s=0.01)
    for item in (1, 2, 3):
        spaced.submit(item)
        await settle()
    assert calls.batches == [[1]]
    async with asyncio.timeout(10):
        while len(calls.batches) == 1:
            await settle()
    assert calls.batches == [[1], [2, 3]]
    await calls.finish_all()


async def test_what_is_worth_a_call_does_not_wait_for_the_spacing() -> None:
    calls = Calls()
    spaced = batcher(calls, max_batch=512, max_calls=2, spacing_s=3600)
    spaced.submit(0)
    await settle()
    for item in range(WORTH_A_CALL - 1):
        spaced.submit(item)
        await settle()
    assert [len(batch) for batch in calls.batches] == [1]
    spaced.submit(-1)
    await settle()
    assert [len(batch) for batch in calls.batches] == [1, WORTH_A_CALL]
    await calls.finish_all()


async def test_a_small_call_is_followed_by_a_short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, rests, loop = Calls(), [], asyncio.get_running_loop()
    spaced = batcher(calls, max_calls=2, spacing_s=3600)
    call_later = loop.call_later

    def noted(delay_s: float, call: Any, *arguments: Any) -> asyncio.TimerHandle:
        if getattr(call, "__self__", None) is spaced:  # other tests have left timers of their own
            rests.append(delay_s)
        return call_later(delay_s, call, *arguments)

    monkeypatch.setattr(loop, "call_later", noted)
    spaced.submit(0)
    await settle()
    for item in range(WORTH_A_CALL):
        spaced.submit(item)
    await settle()
    assert rests == [3600 / WHOLE_REST_ITEMS, 3600]
    await calls.finish_all()


async def test_a_full_batch_does_not_wait_for_the_spacing() -> None:
    calls = Calls()
    spaced = batcher(calls, max_batch=2, max_calls=9, spacing_s=3600)
    for item in (1, 2, 3, 4, 5, 6):
        spaced.submit(item)
        await settle()
    assert calls.batches == [[1], [2, 3], [4, 5]]
    await calls.finish_all()


async def test_a_spacing_never_holds_more_than_a_batch_back() -> None:
    calls = Calls()
    spaced = batcher(calls, max_batch=2, spacing_s=3600)
    for item in (1, 2, 3, 4):
        spaced.submit(item)
        await settle()
    await calls.finish(0)
    assert calls.batches == [[1], [2, 3]]
    await calls.finish_all()
