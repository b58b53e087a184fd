"""Asking all who should know, at once, and taking what most of them say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from seckill.adapters.failures import REDIS, store_failure
from seckill.errors import Unavailable

T = TypeVar("T")


async def most_agreed(asked: Sequence[Coroutine[Any, Any, T]], *, timeout_s: float) -> T:
    """Return the answer that most give; raise Unavailable if none comes in time.

    One that was cut off says what was right before, and a frozen one says nothing: to ask in turn
    would believe the first and wait for the second. It ends when more than half agree.
    """
    pending = {asyncio.create_task(each, name="ask for the master") for each in asked}
    deadline = asyncio.get_running_loop().time() + timeout_s
    answers: Counter[T] = Counter()
    failures: list[Unavailable] = []
    try:
        while pending and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            done, pending = await asyncio.wait(
                pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    answers[task.result()] += 1
                elif failure := store_failure(error, REDIS):
                    failures.append(failure)
                else:
                    raise error
            if answers and answers.most_common(1)[0][1] > len(asked) // 2:
                break
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if answers:
        return answers.most_common(1)[0][0]
    if failures:
        raise failures[0]
    raise Unavailable(f"Redis does not answer within {timeout_s:g} s", store=REDIS)
