"""A walk through states of all three stores under load: nothing is lost, doubled or oversold.

`STATE_WALKS=50 pytest tests/faults/test_store_states_walk.py` takes as many walks, of ten states.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import ClientSession

from ops.buyers import BuyerReply, grab
from tests.processes import eventually
from tests.store_states import PostgresStates, RabbitStates, RedisStates

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
def states(settings, services):
    """Each state of each store, to be entered."""
    postgres, redis = PostgresStates(settings), RedisStates(settings)
    rabbit = RabbitStates(settings, services)
    return {
        "postgresql": [
            postgres.read_only,
            postgres.other_password,
            postgres.no_login,
            postgres.renamed_database,
            postgres.without_function,
            postgres.without_table,
            postgres.locked_table,
            lambda: postgres.objecting("58030"),
            lambda: postgres.objecting("XX000"),
        ],
        "redis": [
            redis.demoted,
            lambda: redis.configured(maxmemory="1"),
            lambda: redis.configured(min_replicas_to_write="1"),
            lambda: redis.without_right("evalsha"),
        ],
        "rabbitmq": [rabbit.other_password, rabbit.without_vhost_rights, rabbit.alarmed],
    }


@pytest.mark.timeout(300)  # the tool that changes the broker takes seconds for each step
@pytest.mark.parametrize("seed", range(WALKS or 1))
async def test_nothing_is_lost_whatever_states_the_stores_go_through(
    processes, open_sale, ticket_for, assert_balanced, db, states, seed
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
                    await entered.enter_async_context(chance.choice(states[store])())
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
