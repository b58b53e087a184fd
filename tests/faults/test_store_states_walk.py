"""A walk through states of all three stores under load: nothing is lost, doubled or oversold.

`STATE_WALKS=50 pytest tests/faults/test_store_states_walk.py` takes as many walks, of ten states.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import ClientSession

from loadtest.store_states.states import STATES as STORE_STATES
from ops.buyers import BuyerReply, grab
from tests.processes import eventually

WALKS = int(os.environ.get("STATE_WALKS", "0"))
STATES, UNITS = 10 if WALKS else 5, 300
#: Answers in each state, of buyers who come so far apart.
ANSWERS, APART_S, BUYERS_AT_ONCE = 40, 0.02, 4


class Crowd:
    """Buyers who come one after the other, and the answers they got."""

    def __init__(self, press: Callable[[str], Awaitable[BuyerReply]]) -> None:
        self.answers: list[BuyerReply] = []
        self._press = press
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._come()) for _ in range(BUYERS_AT_ONCE)]

    async def _come(self) -> None:
        while not self._stop.is_set():
            self.answers.append(await self._press(f"buyer-{next(self._numbers)}"))
            await asyncio.sleep(APART_S)

    async def some_more(self) -> None:
        goal = len(self.answers) + ANSWERS

        async def answered() -> bool:
            return len(self.answers) >= goal

        await eventually(answered, "buyers get answers", within_s=60)

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


@pytest.fixture
def states():
    """The states of each store."""
    by_store = defaultdict(list)
    for state in STORE_STATES:
        by_store[state.store].append(state)
    return by_store


# The tool that changes the broker takes seconds a step; many walks are taken beside other work.
@pytest.mark.timeout(1200 if WALKS else 300)
@pytest.mark.parametrize("seed", range(WALKS or 1))
async def test_nothing_is_lost_whatever_states_the_stores_go_through(
    processes, open_sale, ticket_for, assert_balanced, db, services, states, seed
) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    gateway, consumer = [await processes.run(each) for each in ("gateway", "consumers")]
    sale = await open_sale(stock=UNITS)
    async with ClientSession(gateway.url) as http:
        crowd = Crowd(lambda buyer: grab(http, sale.sale_id, buyer, ticket_for(sale, buyer)))
        await crowd.some_more()
        for _ in range(STATES):
            async with AsyncExitStack() as entered:
                # Mostly one store, sometimes two at once.
                for store in chance.sample(sorted(states), chance.choice((1, 1, 2))):
                    await entered.enter_async_context(chance.choice(states[store]).enter(services))
                await crowd.some_more()
            if chance.random() < 0.5:
                await crowd.some_more()
        await crowd.end()
    ledger = await assert_balanced(sale, wait_s=60)

    accepted = Counter(answer.order_id for answer in crowd.answers if answer.status == 202)
    assert set(accepted.values()) == {1}
    rows = {
        row[0]
        for row in await db.fetch(
            "SELECT order_id::text FROM orders WHERE sale_id = $1 AND state = 'pending'",
            sale.sale_id,
        )
    }
    # A reply may be lost after its grab was taken, never the other way round.
    assert accepted.keys() <= rows
    assert len(rows) == ledger.lines["orders pending"] <= UNITS
    for process in (gateway, consumer):
        assert process.child.pid is not None, "it has not ended"
        text = (processes.home / "logs" / f"{process.child.name}.log").read_text()
        assert not re.search(r"Traceback|attempt \d+ failed|dead letter", text)
