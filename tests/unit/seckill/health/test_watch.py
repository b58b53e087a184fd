"""What is asked about health is answered at once, whatever a look waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from seckill.errors import Unavailable
from seckill.health.watch import HealthWatch, Look


class FakeStore:
    """Does what a test lets it do."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        #: Set while it answers.
        self.answers = asyncio.Event()
        self.answers.set()
        #: Looks that have begun, and that have ended.
        self.begun = self.ended = 0
        #: It does not even let go of a caller who gives up.
        self.clings = False

    async def ask(self) -> None:
        self.begun += 1
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            while self.clings:
                with suppress(asyncio.CancelledError):
                    await self.answers.wait()
                    self.clings = False
            raise
        finally:
            self.ended += 1
        if self.error:
            raise self.error

    def look(self, name: str, timeout_s: float = 60.0) -> Look:
        return Look(name, name.title(), self.ask, timeout_s, every_s=0.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - looks follow each other without a pause
            await asyncio.sleep(0)


async def test_the_block_begins_when_each_was_looked_at() -> None:
    store = FakeStore()
    watch = HealthWatch([store.look("redis")])
    assert watch.reasons() == {"redis": "Redis has not been looked at yet"}
    async with watch.running():
        assert watch.reasons() == {}
        assert watch.names == ["redis"]
    ended = store.ended
    await asyncio.sleep(0)
    assert store.begun == ended, "nothing looks on after the block"


async def test_a_reason_comes_in_the_words_of_the_store_and_goes() -> None:
    store = FakeStore()
    watch = HealthWatch([store.look("redis")])
    async with watch.running():
        well_at = watch.well_at("redis")
        store.error = Unavailable("Redis refuses: LOADING", store="redis")
        await until(lambda: watch.reasons() == {"redis": "Redis refuses: LOADING"})
        store.error = None
        await until(lambda: not watch.reasons())
        assert watch.well_at("redis") > well_at


async def test_a_look_that_hangs_holds_up_neither_the_answer_nor_the_others() -> None:
    frozen, sound = FakeStore(), FakeStore()
    watch = HealthWatch([frozen.look("postgresql", timeout_s=0.01), sound.look("redis")])
    async with watch.running():
        frozen.answers.clear()
        frozen.clings = True
        begun = sound.begun
        await until(lambda: "postgresql" in watch.reasons() and sound.begun > begun)
        assert frozen.begun == frozen.ended + 1, "the look is still under way"
        assert watch.reasons() == {"postgresql": "Postgresql does not answer within 0.01 s"}
        frozen.answers.set()
        await until(lambda: not watch.reasons())


async def test_a_store_that_hangs_from_the_beginning_does_not_keep_a_process_from_starting() -> (
    None
):
    frozen = FakeStore()
    frozen.answers.clear()
    watch = HealthWatch([frozen.look("postgresql", timeout_s=0.01)])
    async with watch.running():
        assert watch.reasons() == {"postgresql": "Postgresql does not answer within 0.01 s"}


async def test_a_bug_of_a_look_is_logged_once_and_is_a_reason(caplog) -> None:
    store = FakeStore()
    store.error = KeyError("nothing of a store")
    watch = HealthWatch([store.look("redis")])
    async with watch.running():
        await until(lambda: store.ended > 5)
        assert "nothing of a store" in watch.reasons()["redis"]
    assert [record.message for record in caplog.records] == ["the look at Redis has a bug"]
