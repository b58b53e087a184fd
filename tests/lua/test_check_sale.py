"""check_sale.lua: a sale behind PostgreSQL is fenced, a whole sale stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

import lua
from seckill.adapters import redis_keys
from tests.lua.shop import EPOCH, Shop

NONE = "0-0"


async def check(
    shop: Shop, placed: str = NONE, *, epoch: int = EPOCH, opened: int = 1, fence: int = 0
) -> list[Any]:
    script = lua.register(shop.redis, "check_sale")
    names = [
        k(shop.sale_id)
        for k in (redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox)
    ]
    reply: list[Any] = await script(keys=names, args=[epoch, placed, opened, fence])
    return reply


async def test_a_whole_sale_reports_all_that_may_change(shop: Shop) -> None:
    await shop.open(5)
    assert await check(shop) == [b"WHOLE", EPOCH, b"open", b"5", b"0", 0, b"0-0"]
    reply = await shop.grab("ann")
    newest = reply.outbox_id.encode()
    assert await check(shop) == [b"WHOLE", EPOCH, b"open", b"4", b"0", 1, newest]


@pytest.mark.parametrize("last", ["7-3", "7-4", "8-0", "10-0"])
async def test_an_outbox_that_came_as_far_is_whole(shop: Shop, last: str) -> None:
    await shop.open(5)
    await shop.redis.xadd(redis_keys.outbox(shop.sale_id), {"a": "b"}, id=last)
    await shop.redis.xdel(redis_keys.outbox(shop.sale_id), last)
    assert (await check(shop, "7-3", fence=1))[0] == b"WHOLE"


@pytest.mark.parametrize("last", [None, "7-2", "6-99", "1-0"])
async def test_F8_an_outbox_that_never_came_so_far_is_behind(shop: Shop, last: str | None) -> None:
    await shop.open(5)
    if last:
        await shop.redis.xadd(redis_keys.outbox(shop.sale_id), {"a": "b"}, id=last)
    before = await shop.dump()
    assert await check(shop, "7-3") == [b"BEHIND"]
    assert await shop.dump() == before, "a look changes nothing"
    assert await check(shop, "7-3", fence=1) == [b"BEHIND"]
    assert await shop.outcomes("ann") == "U"
    assert await check(shop, fence=1) == [b"FENCED"]


async def test_an_older_epoch_is_behind_and_a_newer_one_is_not(shop: Shop) -> None:
    await shop.open(5)
    assert await check(shop, epoch=EPOCH + 1) == [b"BEHIND"]
    assert (await check(shop, epoch=EPOCH - 1, fence=1))[0] == b"WHOLE"


async def test_a_rebuild_that_ended_since_postgresql_was_read_is_whole(shop: Shop) -> None:
    """Its outbox may be a new one, and the id is one of the epoch before."""
    await shop.open(5, epoch=EPOCH + 1)
    assert (await check(shop, "7-3", fence=1))[0] == b"WHOLE"


@pytest.mark.parametrize(("opened", "outcome"), [(1, b"BEHIND"), (0, b"WHOLE")])
async def test_a_sale_that_is_announced_is_behind_once_it_was_opened(
    shop: Shop, opened: int, outcome: bytes
) -> None:
    await shop.set(state="created", epoch=EPOCH, corrections=0)
    assert (await check(shop, opened=opened))[0] == outcome


@pytest.mark.parametrize("lost", [["sale"], ["stock"], ["sale", "stock", "holders", "outbox"]])
async def test_what_is_lost_is_missing_and_nothing_is_made(shop: Shop, lost: list[str]) -> None:
    await shop.open(5)
    await shop.grab("ann")
    await shop.redis.delete(*[getattr(redis_keys, key)(shop.sale_id) for key in lost])
    before = await shop.dump()
    assert await check(shop, "9-9", fence=1) == [b"MISSING"]
    assert await shop.dump() == before
