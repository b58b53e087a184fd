"""fence: a sale whose Redis went back in time is fenced, and reported once."""

from __future__ import annotations

from consumers.roles.fence import Fence
from seckill.adapters import redis_keys
from seckill.consistency import fencing
from seckill.consistency.fencing import FenceReason


async def test_F8_the_role_fences_a_sale_that_went_back_in_time(open_sale, shop, store, db, caplog):
    sale = await open_sale()
    (grab,) = await shop.grab(sale, "ann")
    await shop.place(grab._replace(outbox_mark=2**62))
    fence = Fence(store, db)

    assert (await fence.check())[sale.sale_id] is FenceReason.BEHIND
    assert (await fence.check())[sale.sale_id] is FenceReason.FENCED

    assert await store.hget(redis_keys.sale(sale.sale_id), "state") == b"fenced"
    lines = [r.getMessage() for r in caplog.records if sale.sale_id in r.getMessage()]
    assert lines == [fencing.advice(sale.sale_id, FenceReason.BEHIND)]
