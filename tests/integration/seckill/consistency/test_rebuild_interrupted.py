"""rebuild: it may be cut off at any step, and several may run at once."""

from __future__ import annotations

import asyncio

import pytest

from seckill.consistency.rebuild import Rebuild
from seckill.errors import Conflict, Unavailable
from seckill.sales import sales

STEPS = ["_raise_epoch", "_reject_in_flight", "_step", "_restore_limits", "_lift"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_F3_a_rebuild_that_dies_at_any_step_sells_nothing_and_is_run_again(
    open_sale, shop, lose, verdicts, rebuilder, run, monkeypatch, assert_balanced, step, done
):
    sale = await open_sale(stock=3)
    await shop.order(sale, "ann")
    await lose(sale)
    real = getattr(rebuilder, step)

    async def die(*args):
        if done:
            await real(*args)
        raise Unavailable("the process dies here")

    monkeypatch.setattr(rebuilder, step, die)
    with pytest.raises(Unavailable):
        await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    monkeypatch.undo()
    was_lifted = step == "_lift" and done
    if not was_lifted:
        assert await verdicts(sale, "new") == "U"
        await run(sale)
    await assert_balanced(sale)
    assert await verdicts(sale, "ann", *"bcd") == "DAAS"


async def test_two_rebuilds_at_once_end_in_one(
    open_sale, shop, store, db, lose, verdicts, rebuilder, assert_balanced
):
    sale = await open_sale(stock=40)
    await shop.order(sale, *(f"b{n}" for n in range(20)))
    await lose(sale)
    ended = await asyncio.gather(
        *(rebuilder.run(sale.sale_id, actor="test", reason="lost") for _ in range(4)),
        return_exceptions=True,
    )
    assert [e for e in ended if not isinstance(e, Conflict)], "the last one wins"
    await assert_balanced(sale)
    assert await shop.left(sale) == 20


@pytest.mark.parametrize("overtaken_at", ["_reject_in_flight", "_restore_limits", "_lift"])
async def test_an_overtaken_rebuild_stops_and_writes_nothing(
    open_sale,
    shop,
    store,
    db,
    lose,
    verdicts,
    rebuilder,
    run,
    monkeypatch,
    overtaken_at,
    assert_balanced,
):
    sale = await open_sale(stock=3)
    (ann,) = await shop.order(sale, "ann")
    await lose(sale)
    real, other = getattr(rebuilder, overtaken_at), Rebuild(store, db)

    async def overtaken(*args):
        await shop.release(ann)
        await other.run(sale.sale_id, actor="other", reason="lost")
        await verdicts(sale, "bob")
        await real(*args)

    monkeypatch.setattr(rebuilder, overtaken_at, overtaken)
    with pytest.raises(Conflict, match="another rebuild"):
        await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    assert await shop.left(sale) == 2
    assert list(await shop.holders(sale)) == ["bob"]
    assert (await shop.rows(sale)).keys() == {ann.order_id}, "bob is in flight in the new epoch"


async def test_a_locked_sale_is_read_as_it_is_then(open_sale, db, blocked, eventually):
    """A transaction that waited for the lock of a rebuild must not use the old epoch."""
    sale = await open_sale(opened=False)
    async with db.acquire() as one, one.transaction():
        await sales.lock(one, sale.sale_id)
        await one.execute("UPDATE inventory SET epoch = epoch + 1 WHERE sale_id = $1", sale.sale_id)

        async def lock_and_read():
            async with db.acquire() as other, other.transaction():
                return (await sales.lock(other, sale.sale_id)).epoch

        waiting = asyncio.create_task(lock_and_read())
        await eventually(blocked, "the other waits for the lock")
    assert await waiting == sale.epoch + 1
