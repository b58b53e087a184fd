"""What the tests of replay and discard share."""

from __future__ import annotations

import pytest

from seckill import audit
from seckill.adapters.topology import ORDERS_PLACE
from seckill.dead_letters import resolution


@pytest.fixture
def replay(db, publisher, queues):
    async def call(letter, *, by=publisher, **options):
        return await resolution.replay(db, by, letter.letter_id, actor="ops", **options)

    return call


@pytest.fixture
def discard(db, store):
    async def call(letter, *, redis=store):
        return await resolution.discard(db, redis, letter.letter_id, actor="ops", reason="hopeless")

    return call


@pytest.fixture
def place(place_orders, queues):
    """Place what lies in orders.place."""
    handler = place_orders()

    async def take(count=1):
        await handler.handle(await queues.take(ORDERS_PLACE, count))

    return take


class Crash(Exception):
    """The process is gone."""


@pytest.fixture
def crash_before_commit(monkeypatch):
    """Let the next transaction crash when all is written and nothing is committed."""
    real, crashes = audit.record, [Crash()]

    async def record(*args, **options):
        await real(*args, **options)
        if crashes:
            raise crashes.pop()

    monkeypatch.setattr(audit, "record", record)
    return Crash
