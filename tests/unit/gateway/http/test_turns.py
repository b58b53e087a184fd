"""Shares of a turn: so many at once, the others later, first come first."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.problems import Problem, Refused
from gateway.http.turns import TurnShares


async def begun(count: int, shares: TurnShares, taken: list[int]) -> list[asyncio.Task[None]]:
    async def take(number: int) -> None:
        await shares.take()
        taken.append(number)

    return [asyncio.create_task(take(number)) for number in range(count)]


async def test_a_turn_has_so_many_shares_and_the_others_follow_in_order() -> None:
    taken: list[int] = []
    tasks = await begun(20, TurnShares(each_turn=3, waiting_max=100), taken)
    before = 0
    while len(taken) < 20:
        await asyncio.sleep(0)
        assert len(taken) - before <= 3
        before = len(taken)
    assert taken == list(range(20))
    await asyncio.gather(*tasks)


async def test_one_who_comes_alone_never_waits() -> None:
    shares = TurnShares(each_turn=1, waiting_max=0)
    for _ in range(3):
        await asyncio.wait_for(shares.take(), None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_too_many_who_wait_are_refused() -> None:
    taken: list[int] = []
    tasks = await begun(10, TurnShares(each_turn=2, waiting_max=3), taken)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [error for error in ended if isinstance(error, Refused)]
    assert [error.problem for error in refused] == [Problem.OVERLOADED] * 5
    assert taken == [0, 1, 2, 3, 4]


async def test_who_leaves_takes_no_share() -> None:
    taken: list[int] = []
    shares = TurnShares(each_turn=1, waiting_max=10)
    tasks = await begun(4, shares, taken)
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert taken == [0, 3]
    await shares.take()


@pytest.mark.parametrize("waiting_max", [0, 5])
async def test_after_a_pause_all_shares_are_there_again(waiting_max: int) -> None:
    shares = TurnShares(each_turn=2, waiting_max=waiting_max)
    for _ in range(3):
        await shares.take()
        await shares.take()
        for _ in range(3):
            await asyncio.sleep(0)
