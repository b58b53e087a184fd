"""rebuild: a sale that Redis lost goes on from PostgreSQL, with everything that was its own."""

from __future__ import annotations

import pytest

from seckill.adapters import redis_keys
from seckill.errors import Conflict, Missing, WrongState
from seckill.sales import rate_limits, sales
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.restock import restock
from seckill.sales.token_buckets import TokenBuckets


async def test_F8_an_emptied_sale_goes_on_and_sells_exactly_the_rest(
    open_sale, shop, lose, verdicts, run, assert_balanced
):
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann", "bob")
    await shop.release(*await shop.order(sale, "cat"))
    await shop.return_all(sale)
    await lose(sale)
    assert await verdicts(sale, "ann", "new") == "UU"

    rebuilt = await run(sale)

    assert (rebuilt.epoch, rebuilt.stock, rebuilt.holders, rebuilt.rejected) == (2, 3, 2, 0)
    await assert_balanced(sale)
    # The holder keeps the order, the rest are sold, and no more.
    assert await verdicts(sale, "ann", *"defgh") == "DAAASS"


@pytest.mark.parametrize(
    "lost", [["stock"], ["sale"], ["holders"], ["sale", "stock"]], ids="+".join
)
async def test_F8_a_sale_that_lost_a_part_is_rebuilt_as_well(
    open_sale, shop, store, verdicts, run, assert_balanced, lost
):
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann", "bob")
    await store.delete(*(getattr(redis_keys, key)(sale.sale_id) for key in lost))

    await run(sale, force=lost == ["holders"])

    await assert_balanced(sale)
    assert await verdicts(sale, "ann", *"defgh") == "DAAASS"


async def test_a_sale_that_is_whole_is_refused_and_not_even_fenced(open_sale, run, verdicts):
    sale = await open_sale()
    with pytest.raises(WrongState, match="whole"):
        await run(sale)
    assert await verdicts(sale, "ann") == "A"


async def test_an_unknown_sale_is_missing(rebuilder):
    with pytest.raises(Missing):
        await rebuilder.fence(["no-such-sale"])


@pytest.mark.parametrize("state", ["paused", "closed"])
async def test_the_state_comes_back(open_sale, db, stock, store, lose, verdicts, run, state):
    sale = await open_sale()
    await {"paused": sales.pause, "closed": sales.close}[state](db, stock, sale.sale_id)
    await lose(sale)
    assert (await run(sale)).state == state
    assert await verdicts(sale, "ann") == {"paused": "P", "closed": "C"}[state]


async def test_a_sale_that_was_never_opened_can_open_after_it(
    open_sale, db, stock, lose, verdicts, run, assert_balanced
):
    sale = await open_sale(stock=2, opened=False)
    await lose(sale)
    assert await verdicts(sale, "ann") == "U"

    assert (await run(sale)).stock is None

    assert await verdicts(sale, "ann") == "N"
    await sales.open_(db, stock, sale.sale_id)
    assert await verdicts(sale, *"abc") == "AAS"


async def test_a_sale_whose_opening_was_cut_off_keeps_its_orders(
    open_sale, shop, db, stock, lose, verdicts, run, assert_balanced
):
    """Redis had been written, PostgreSQL had not, and buyers came in between."""
    sale = await open_sale(stock=3)
    await shop.order(sale, "ann")
    await db.execute(
        "UPDATE sales SET opened_at = NULL, state = 'created' WHERE sale_id = $1", sale.sale_id
    )
    await lose(sale)
    await run(sale)
    await sales.open_(db, stock, sale.sale_id)
    await assert_balanced(sale)
    assert await verdicts(sale, "ann", *"bcd") == "DAAS"


async def test_limits_and_restocked_units_come_back(
    open_sale, store, stock, db, lose, run, verdicts, assert_balanced
):
    sale = await open_sale(stock=2)
    await rate_limits.set_limit(db, TokenBuckets(store), sale.sale_id, "try", SaleLimit.of(7))
    await restock(db, stock, sale.sale_id, 1, actor="test", reason="more came")
    await lose(sale)

    await run(sale)

    assert await store.hget(redis_keys.bucket(sale.sale_id, "try"), "rate") == b"7"
    assert await store.hget(redis_keys.sale(sale.sale_id), "total") == b"3"
    await assert_balanced(sale)
    await restock(db, stock, sale.sale_id, -1, actor="test", reason="fewer after all")
    assert await verdicts(sale, *"abc") == "AAS"


async def test_every_rebuild_is_on_record(open_sale, db, lose, run):
    sale = await open_sale(stock=2)
    await lose(sale)
    await run(sale)
    row = await db.fetchrow(
        "SELECT actor, action, reason FROM audit WHERE sale_id = $1", sale.sale_id
    )
    assert tuple(row) == ("test", "sale.rebuild", "lost")


async def test_a_sale_that_does_not_balance_is_left_alone(open_sale, shop, db, lose, rebuilder):
    sale = await open_sale()
    await shop.order(sale, "ann")
    await lose(sale)
    await db.execute("UPDATE orders SET quantity = 2 WHERE sale_id = $1", sale.sale_id)
    with pytest.raises(Conflict, match="do not balance"):
        await rebuilder.run(sale.sale_id, actor="test", reason="lost")
    assert (await sales.find(db, sale.sale_id)).epoch == 1


async def test_a_postgresql_of_an_older_epoch_goes_beyond_what_redis_has(open_sale, store, run):
    """PostgreSQL was restored from a backup: messages of its future are about."""
    sale = await open_sale()
    await store.hset(redis_keys.sale(sale.sale_id), "epoch", 7)
    assert (await run(sale, force=True)).epoch == 8
