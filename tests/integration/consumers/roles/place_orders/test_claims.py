"""place_orders: a message is believed only what Redis can have given it.

PostgreSQL keeps the newest outbox entry of a sale, and fences the sale if Redis never reached it.
"""

from __future__ import annotations

import pytest

from consumers.roles.place_orders import PlaceOrders
from consumers.timers import Timers
from ops.processes.ports import free_port
from seckill import messages
from seckill.adapters import redis as redis_client
from seckill.adapters import redis_keys
from seckill.adapters.topology import ORDERS_PLACE
from seckill.consistency import claims, fencing
from seckill.consistency.claims import NotVerified
from seckill.consistency.fencing import FenceReason
from seckill.inventory.outbox import mark_of
from seckill.sales.directory import SaleDirectory

HOUR_MS = 3_600_000


@pytest.fixture
def send_claim(send_body):
    """Publish one grab, as a message with an outbox id of its own."""

    async def send(grab, outbox_id):
        entry = [grab.order_id, grab.buyer_id, grab.quantity]
        await send_body(messages.encode_place(grab.sale_id, grab.epoch, [outbox_id], [entry]))

    return send


@pytest.fixture
def newest_entry(store):
    """Return the newest outbox id of a sale."""

    async def read(sale):
        ((outbox_id, _),) = await store.xrevrange(redis_keys.outbox(sale.sale_id), count=1)
        return outbox_id.decode()

    return read


@pytest.fixture
def mark_in_sql(db):
    async def read(sale):
        return await db.fetchval(
            "SELECT outbox_mark FROM inventory WHERE sale_id = $1", sale.sale_id
        )

    return read


@pytest.fixture
def fence_reason(store, db):
    async def read(sale):
        return (await fencing.needing_rebuild(store, db, [sale.sale_id])).get(sale.sale_id)

    return read


@pytest.fixture
def without_redis(db, publisher):
    """The handler of a consumer that cannot reach Redis."""
    nowhere = redis_client.connect(f"redis://127.0.0.1:{free_port()}/0", timeout_s=5)
    return PlaceOrders(db, nowhere, Timers(SaleDirectory(db), {}), publisher)


async def test_F8_an_outbox_id_of_the_future_is_a_dead_letter_and_fences_nothing(
    open_sale, shop, stock, newest_entry, send_claim, handle, dead_entries, fence_reason
):
    sale = await open_sale()
    future = f"{await stock.now_ms() + HOUR_MS}-7"
    (good,) = await shop.grab(sale, "ann", settle=False)
    bad = shop.wish(sale, "eve")
    await send_claim(bad, future)
    await send_claim(good, await newest_entry(sale))

    await handle(2)

    ((entries, reason),) = await dead_entries()
    assert entries == [[bad.order_id, "eve", 1]]
    assert f"its outbox entry {future} is later than Redis's clock" in reason
    assert await shop.states(sale, [good, bad]) == ["pending", None]
    assert await fence_reason(sale) is None


async def test_an_epoch_of_the_future_is_a_dead_letter(
    open_sale, shop, send_grabs, handle, dead_entries
):
    """It would be placed although its sale was rebuilt."""
    sale = await open_sale()
    good, bad = shop.wish(sale, "ann"), shop.wish(sale, "eve", epoch=2)
    await send_grabs(bad)
    await send_grabs(good)

    await handle(2)

    ((entries, reason),) = await dead_entries()
    assert entries == [[bad.order_id, "eve", 1]]
    assert reason == "its epoch 2 is later than the newest of its sale, 1"
    assert await shop.states(sale, [good, bad]) == ["pending", None]


async def test_one_false_part_of_a_multi_sale_message_leaves_the_others_alone(
    open_sale, shop, send_multi_sale, handle, dead_entries
):
    one, other = await open_sale(), await open_sale()
    good, bad = shop.wish(one, "ann"), shop.wish(other, "eve", epoch=2)
    await send_multi_sale(good, bad)

    await handle()

    assert await shop.states(one, [good]) == ["pending"]
    assert [entries for entries, _ in await dead_entries()] == [[[bad.order_id, "eve", 1]]]


async def test_an_epoch_that_only_redis_has_is_believed(
    open_sale, shop, store, send_grabs, handle, dead_entries
):
    """PostgreSQL was restored from before a rebuild; the fence says so, not the dead letters."""
    sale = await open_sale()
    await store.hset(redis_keys.sale(sale.sale_id), "epoch", 2)
    grab = shop.wish(sale, "ann", epoch=2)
    await send_grabs(grab)

    await handle()

    assert await dead_entries() == []
    assert await shop.states(sale, [grab]) == ["pending"]


async def test_F8_a_message_under_way_still_shows_that_redis_went_back_in_time(
    open_sale, shop, store, newest_entry, send_claim, handle, dead_entries, fence_reason
):
    """Redis no longer knows the entry; nothing else of it has reached PostgreSQL."""
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann", settle=False)
    await send_claim(grab, await newest_entry(sale))
    await store.delete(redis_keys.outbox(sale.sale_id))
    assert await fence_reason(sale) is None

    await handle()

    assert await dead_entries() == []
    assert await fence_reason(sale) is FenceReason.BEHIND


async def test_a_redis_whose_clock_is_ahead_of_ours_is_believed(
    open_sale, shop, newest_entry, send_claim, handle, dead_entries, mark_in_sql, monkeypatch
):
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann", settle=False)
    outbox_id = await newest_entry(sale)
    await send_claim(grab, outbox_id)
    monkeypatch.setattr(claims, "now_ms", lambda: 0)

    await handle()

    assert await dead_entries() == []
    assert await mark_in_sql(sale) == mark_of([outbox_id])


async def test_a_redis_whose_clock_was_set_back_is_believed(
    open_sale, shop, store, stock, send_claim, handle, dead_entries, mark_in_sql
):
    """Its stream goes on from its newest entry."""
    sale = await open_sale()
    future = f"{await stock.now_ms() + HOUR_MS}-7"
    await store.xadd(redis_keys.outbox(sale.sale_id), {"epoch": 1, "grabs": b"\x90"}, id=future)
    grab = shop.wish(sale, "ann")
    await send_claim(grab, future)

    await handle()

    assert await dead_entries() == []
    assert await mark_in_sql(sale) == mark_of([future])


async def test_without_redis_orders_are_placed_and_only_what_it_has_to_confirm_waits(
    open_sale, shop, stock, queues, send_grabs, send_claim, without_redis
):
    sale = await open_sale()
    good, bad = shop.wish(sale, "ann"), shop.wish(sale, "eve")
    await send_grabs(good)
    await without_redis.handle(await queues.take(ORDERS_PLACE, 1))
    assert await shop.states(sale, [good]) == ["pending"]

    await send_claim(bad, f"{await stock.now_ms() + HOUR_MS}-7")
    with pytest.raises(NotVerified, match="only Redis knows"):
        await without_redis.handle(await queues.take(ORDERS_PLACE, 1))


async def test_outbox_ids_of_the_past_forged_and_doubled_change_nothing(
    open_sale,
    shop,
    stock,
    newest_entry,
    send_claim,
    send_body,
    handle,
    dead_entries,
    mark_in_sql,
    fence_reason,
):
    """Whoever sends them has valid grabs: they are placed once, and the mark stays."""
    sale = await open_sale()
    (first,) = await shop.grab(sale, "ann", settle=False)
    newest = await newest_entry(sale)
    await send_claim(first, newest)
    await handle()
    mark = await mark_in_sql(sale)
    assert mark == mark_of([newest])

    (second,) = await shop.grab(sale, "bob", settle=False)
    entry = [second.order_id, second.buyer_id, second.quantity]
    forged = ["1-1", "1-1", newest, newest, "0-0"]
    await send_body(messages.encode_place(sale.sale_id, second.epoch, forged, [entry, entry]))
    await send_claim(second, "1-1")
    await send_claim(first, "0-1")
    await handle(3)

    assert await shop.states(sale, [first, second]) == ["pending"] * 2
    assert await shop.inventory(sale) == (8, 2, 0)
    assert await mark_in_sql(sale) == mark
    assert await dead_entries() == []
    assert await fence_reason(sale) is None
