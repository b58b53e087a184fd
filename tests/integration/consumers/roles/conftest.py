"""What the tests of several roles share: a listener for expired keys."""

from __future__ import annotations

import pytest

from consumers.roles.key_expiry import KeyExpiry
from seckill.adapters import redis_keys


@pytest.fixture
async def listener(store, db):
    listener = KeyExpiry(store, db)
    yield listener
    await listener.close()


@pytest.fixture
def subscribed(store):
    """Return whether exactly one client listens for expired keys."""

    async def check():
        database = store.connection_pool.connection_kwargs["db"]
        ((_, listeners),) = await store.pubsub_numsub(redis_keys.expired_channel(database))
        return listeners == 1

    return check
