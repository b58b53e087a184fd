"""One reading for all who wait; a failure is shared, too."""

from __future__ import annotations

import asyncio

import pytest

from seckill.errors import Unavailable
from seckill.single_flight import SingleFlight


class Store:
    def __init__(self) -> None:
        self.reads = 0
        self.gate = asyncio.Event()
        self.unavailable = False

    async def read(self) -> int:
        self.reads += 1
        await self.gate.wait()
        if self.unavailable:
            raise Unavailable("no answer")
        return self.reads


async def waiting(reading: SingleFlight[int], count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(reading.now()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_all_who_wait_share_one_reading() -> None:
    store = Store()
    reading = SingleFlight(store.read, interval_s=0.01)
    tasks = await waiting(reading, 100)
    store.gate.set()
    # The first began the reading when the others had asked already, or just before they did.
    assert set(await asyncio.gather(*tasks)) <= {1, 2}
    assert store.reads <= 2


async def test_all_who_wait_share_one_failure() -> None:
    """A store that hangs costs each of them one time limit or two, not one after the other."""
    store = Store()
    store.unavailable = True
    reading = SingleFlight(store.read, interval_s=0.01)
    tasks = await waiting(reading, 100)
    store.gate.set()
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(failure, Unavailable) for failure in failures)
    assert store.reads <= 2


async def test_after_a_failure_it_reads_again() -> None:
    store = Store()
    store.gate.set()
    store.unavailable = True
    reading = SingleFlight(store.read, interval_s=0.01)
    with pytest.raises(Unavailable):
        await reading.now()
    store.unavailable = False
    assert await reading.now() == 2


async def test_a_recent_reading_serves_again() -> None:
    store = Store()
    store.gate.set()
    reading = SingleFlight(store.read, interval_s=60)
    assert [await reading.recent() for _ in range(3)] == [1, 1, 1]


async def test_who_is_answered_by_the_reading_in_flight_does_not_wait_for_the_next() -> None:
    """The first grabs of a sale come while the reading that finds it is in flight."""
    store = Store()
    reading = SingleFlight(store.read, interval_s=60)
    first = asyncio.create_task(reading.now())
    await asyncio.sleep(0)
    second = asyncio.create_task(reading.now(lambda: store.reads == 1))
    await asyncio.sleep(0)
    store.gate.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(first, second) == [1, 1]
