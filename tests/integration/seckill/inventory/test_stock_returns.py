"""return_batch: the units of ended orders reach Redis exactly once, however often it is tried."""

from __future__ import annotations

import asyncio

import pytest

from consumers.roles.return_stock import ReturnStock
from seckill.adapters import redis_keys
from seckill.errors import Unavailable
from seckill.inventory import stock_returns
from seckill.inventory.reservations import Holding, UnitReturn
from seckill.inventory.stock_returns import ReturnReport


@pytest.fixture(autouse=True)
async def nothing_else_returns(db):
    """Leave aside what other tests have on the way."""
    await db.execute("DELETE FROM stock_returns")


@pytest.fixture
def return_batch(db, stock):
    return lambda: stock_returns.return_batch(db, stock)


@pytest.fixture
def fall_due(db):
    """Let the time pass after which a sale that was put off is asked again."""
    return lambda: db.execute("UPDATE stock_returns SET due_at = now()")


@pytest.fixture
async def cancelled(open_sale, shop):
    """A sale of 10 units, two of them on their way back from ann."""
    sale = await open_sale(per_order_max=2)
    (order,) = await shop.order(sale, "ann", quantity=2)
    await shop.release(order)
    return sale, order


async def test_units_return_with_their_holder(cancelled, shop, return_batch, assert_balanced):
    sale, _ = cancelled

    assert await return_batch() == ReturnReport(done=1, put_off=0)

    assert await shop.left(sale) == 10
    assert await shop.holders(sale) == {}
    assert await shop.returns(sale) == {}
    assert await return_batch() == ReturnReport(0, 0)
    await assert_balanced(sale)


async def test_F6_crash_between_redis_and_postgresql_returns_once(
    cancelled, shop, stock, return_batch, assert_balanced
):
    sale, order = cancelled
    back = UnitReturn("ann", str(Holding(order.order_id, 2)), 2)
    assert await stock.return_units(sale.sale_id, sale.epoch, [back])  # and then the process dies

    assert await return_batch() == ReturnReport(done=1, put_off=0)

    assert await shop.left(sale) == 10
    assert await shop.returns(sale) == {}
    await assert_balanced(sale)


async def test_F16_a_buyer_who_grabbed_anew_meanwhile_keeps_the_new_order(
    cancelled, shop, stock, return_batch, assert_balanced
):
    sale, order = cancelled
    back = UnitReturn("ann", str(Holding(order.order_id, 2)), 2)
    await stock.return_units(sale.sale_id, sale.epoch, [back])
    (anew,) = await shop.order(sale, "ann")

    assert await return_batch() == ReturnReport(done=1, put_off=0)

    assert await shop.holders(sale) == {"ann": Holding(anew.order_id, 1)}
    assert await shop.left(sale) == 9
    await assert_balanced(sale)


async def test_F7_a_lost_reply_of_redis_returns_once(
    cancelled, shop, stock, db, monkeypatch, assert_balanced
):
    sale, _ = cancelled
    return_units = stock.return_units

    async def done_but_unheard(*args):
        await return_units(*args)
        raise Unavailable("the reply was lost")

    monkeypatch.setattr(stock, "return_units", done_but_unheard)
    with pytest.raises(Unavailable):
        await stock_returns.return_batch(db, stock)
    assert len(await shop.returns(sale)) == 1
    monkeypatch.undo()

    assert await stock_returns.return_batch(db, stock) == ReturnReport(done=1, put_off=0)

    assert await shop.left(sale) == 10
    await assert_balanced(sale)


async def test_several_workers_return_each_unit_once(open_sale, shop, return_batch, monkeypatch):
    monkeypatch.setattr(stock_returns, "CALL_MAX", 3)
    sale = await open_sale(stock=50)
    await shop.release(*await shop.order(sale, *(f"buyer-{i}" for i in range(30))))

    async def work():
        done = 0
        while await shop.returns(sale):
            done += (await return_batch()).done
        return done

    assert sum(await asyncio.gather(*(work() for _ in range(4)))) == 30
    assert await shop.left(sale) == 50
    assert await shop.holders(sale) == {}


async def test_zero_units_become_a_correction(open_sale, shop, stock, store, db, return_batch):
    """A stock-guard reject: Redis had promised more than there is, so nothing goes on sale."""
    sale = await open_sale(stock=3)
    for ghost in ("eve", "fay"):  # orders that a Redis which went back in time has forgotten
        await shop.place_unseen(sale, ghost)
    grabs = await shop.grab(sale, "ann", "bob", "cat")
    await shop.place(*grabs)
    assert await shop.returns(sale) == {grabs[1].order_id: 0, grabs[2].order_id: 0}

    assert await return_batch() == ReturnReport(done=2, put_off=0)

    assert await shop.holders(sale) == {"ann": Holding(grabs[0].order_id, 1)}
    assert await shop.left(sale) == 0
    assert await store.hget(redis_keys.sale(sale.sale_id), "corrections") == b"2"


async def lose(store, key):
    await store.rename(key, f"{key}:away")


async def find_again(store, key):
    await store.rename(f"{key}:away", key)


WAITS = {
    "stock lost": (
        lambda store, id: lose(store, redis_keys.stock(id)),
        lambda store, id: find_again(store, redis_keys.stock(id)),
    ),
    "sale lost": (
        lambda store, id: lose(store, redis_keys.sale(id)),
        lambda store, id: find_again(store, redis_keys.sale(id)),
    ),
    "fenced": (
        lambda store, id: store.hset(redis_keys.sale(id), "state", "fenced"),
        lambda store, id: store.hset(redis_keys.sale(id), "state", "open"),
    ),
    "older epoch": (
        lambda store, id: store.hset(redis_keys.sale(id), "epoch", 0),
        lambda store, id: store.hset(redis_keys.sale(id), "epoch", 1),
    ),
    "newer epoch": (
        lambda store, id: store.hset(redis_keys.sale(id), "epoch", 2),
        lambda store, id: store.hset(redis_keys.sale(id), "epoch", 1),
    ),
}


@pytest.mark.parametrize(("break_", "mend"), WAITS.values(), ids=WAITS)
async def test_F8_a_sale_that_is_not_itself_is_asked_later(
    cancelled, shop, store, db, return_batch, fall_due, assert_balanced, break_, mend
):
    sale, order = cancelled
    await break_(store, sale.sale_id)
    shape = {key: await store.dump(key) async for key in store.scan_iter(f"*{sale.sale_id}}}*")}

    assert await return_batch() == ReturnReport(done=0, put_off=1)

    assert await shop.returns(sale) == {order.order_id: 2}
    assert await db.fetchval(
        "SELECT due_at > now() FROM stock_returns WHERE order_id = $1", order.order_id
    )
    now = {key: await store.dump(key) async for key in store.scan_iter(f"*{sale.sale_id}}}*")}
    assert now == shape
    await mend(store, sale.sale_id)
    await fall_due()
    assert await return_batch() == ReturnReport(done=1, put_off=0)
    await assert_balanced(sale)


async def test_F16_a_closed_sale_still_takes_units_back(
    cancelled, shop, stock, store, return_batch
):
    sale, _ = cancelled
    await stock.set_sale_state(sale.sale_id, "closed")

    assert await return_batch() == ReturnReport(done=1, put_off=0)

    assert await shop.left(sale) == 10


async def test_F14_a_sale_that_must_wait_does_not_starve_others(
    open_sale, shop, store, return_batch, monkeypatch
):
    """Its returns are older and more than fit into a batch; a few passes reach the other sale."""
    monkeypatch.setattr(stock_returns, "CALL_MAX", 2)
    monkeypatch.setattr(stock_returns, "LATER_S", 3600.0)
    stuck, good = await open_sale(), await open_sale()
    await shop.release(*await shop.order(stuck, "ann", "bob", "cat"))
    await shop.release(*await shop.order(good, "ann"))
    await store.hset(redis_keys.sale(stuck.sale_id), "state", "fenced")

    passes = [await return_batch() for _ in range(3)]

    assert passes == [ReturnReport(0, 2), ReturnReport(1, 1), ReturnReport(0, 0)]
    assert await shop.left(good) == 10
    assert len(await shop.returns(stuck)) == 3


async def test_role_goes_on_at_once_after_a_full_batch(open_sale, shop, db, stock, monkeypatch):
    for module in ("seckill.inventory.stock_returns", "consumers.roles.return_stock"):
        monkeypatch.setattr(f"{module}.CALL_MAX", 2)
    sale = await open_sale()
    await shop.release(*await shop.order(sale, "ann", "bob", "cat"))
    role = ReturnStock(db, stock)

    assert [(await role.run_once()).more for _ in range(2)] == [True, False]
    assert await shop.left(sale) == 10
