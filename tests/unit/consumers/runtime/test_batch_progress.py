"""A batch that takes too long: held at first, then halved, then one message is to blame."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from consumers.runtime.batch_progress import MESSAGE_TIMEOUTS, BatchProgress
from seckill.errors import TimedOut, Unavailable


class Handler:
    """Notes each call, and times out whenever a message of this name is in it."""

    def __init__(self, slow: str, store: str = "postgresql") -> None:
        self.slow, self.store = slow, store
        self.calls: list[str] = []

    async def __call__(self, batch) -> None:
        self.calls.append("".join(message.body for message in batch))
        if self.slow in self.calls[-1]:
            raise TimedOut(store=self.store)


def messages(names: str, **headers: int):
    return [SimpleNamespace(body=name, headers=headers) for name in names]


async def answers() -> None:
    """Answer at once, as a store that works."""


async def is_away() -> None:
    raise Unavailable


async def holds_of(progress: BatchProgress, calls_max: int = 20) -> int:
    """Go on until the batch is through; return how often it was held."""
    for held in range(calls_max):
        try:
            await progress.go_on()
        except Unavailable:
            continue
        return held
    return calls_max


async def test_a_statement_that_was_slow_once_is_the_fault_of_the_store() -> None:
    handler = Handler("b")
    progress = BatchProgress(messages("abc"), handler, answers)
    with pytest.raises(TimedOut):
        await progress.go_on()
    handler.slow = "nothing"
    await progress.go_on()
    assert handler.calls == ["abc", "abc"]
    assert not progress.failed


async def test_a_batch_that_is_slow_again_is_halved_and_the_slow_message_alone_fails() -> None:
    handler = Handler("c")
    progress = BatchProgress(messages("abcd"), handler, answers)
    held = await holds_of(progress)
    assert [message.body for message, _ in progress.failed] == ["c"]
    assert handler.calls == ["abcd", "abcd", "ab", "cd", *["c"] * MESSAGE_TIMEOUTS, "d"]
    assert held == 1 + MESSAGE_TIMEOUTS - 1


async def test_a_message_that_has_failed_before_gets_one_chance() -> None:
    progress = BatchProgress(messages("a", **{"x-attempts": 1}), Handler("a"), answers)
    assert await holds_of(progress) == 0
    assert len(progress.failed) == 1


@pytest.mark.parametrize(
    ("store", "ask_store"), [("postgresql", is_away), ("redis", answers), ("", answers)]
)
async def test_nothing_is_to_blame_while_the_store_does_not_answer(store, ask_store) -> None:
    handler = Handler("a", store)
    progress = BatchProgress(messages("ab"), handler, ask_store)
    assert await holds_of(progress) == 20
    assert set(handler.calls) == {"ab"}
    assert not progress.failed
