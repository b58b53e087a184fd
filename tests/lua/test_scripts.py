"""The scripts as Redis sees them."""

from __future__ import annotations

from importlib.resources import files

import pytest
from redis.asyncio import Redis

import lua
from tests.lua.shop import EPOCH, Shop

NAMES = sorted(
    file.name.removesuffix(".lua") for file in files("lua").iterdir() if file.name.endswith(".lua")
)


@pytest.mark.parametrize("name", NAMES)
async def test_F17_every_script_compiles(redis: Redis, name: str) -> None:
    script = lua.register(redis, name)
    assert await redis.script_load(lua.source(name)) == script.sha


async def test_F17_every_script_does_its_work(redis: Redis, shop: Shop) -> None:
    """Not one is broken in a way that only a call shows."""
    await shop.open(2)
    outbox_id = (await shop.grab("ann")).outbox_id
    assert (await shop.scripts.find_holders(shop.sale_id, ["ann"])).left == 1
    await shop.scripts.ack_outbox(shop.sale_id, [outbox_id])
    assert await shop.scripts.return_units(shop.sale_id, EPOCH, [await shop.return_of("ann")])
    assert await shop.scripts.set_sale_state(shop.sale_id, "closed")
    assert (await shop.stock(), await shop.holders(), await shop.outbox()) == (2, {}, [])
    loaded = await redis.script_exists(*[lua.register(redis, name).sha for name in NAMES])
    assert loaded == [True] * len(NAMES), "a test calls every script"


async def test_a_redis_that_forgot_the_scripts_gets_them_again(redis: Redis, shop: Shop) -> None:
    await shop.open(2)
    await redis.script_flush()
    assert await shop.outcomes("ann") == "A"
