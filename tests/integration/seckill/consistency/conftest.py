"""What these tests share: a sale that Redis loses, its rebuild, and the complaints of verify."""

from __future__ import annotations

import pytest

from seckill.consistency.rebuild import Rebuild
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id


@pytest.fixture
def rebuilder(store, db):
    return Rebuild(store, db)


@pytest.fixture
def run(rebuilder):
    """Fence and rebuild a sale, without waiting for anything."""

    async def rebuild_now(sale, *, force=False):
        reasons = await rebuilder.fence([sale.sale_id], force=force)
        return await rebuilder.run(sale.sale_id, actor="test", reason=reasons[sale.sale_id])

    return rebuild_now


@pytest.fixture
def lose(store):
    """Do to one sale what FLUSHALL does to all."""

    async def flush(sale):
        names = [name async for name in store.scan_iter(f"sk:{{{sale.sale_id}}}:*")]
        await store.delete(*names)

    return flush


@pytest.fixture
def verdicts(stock):
    """Grab as a gateway does; return the verdicts, a letter for each buyer."""

    async def grab(sale, *buyers):
        grabs = [Grab(new_order_id(sale.number), buyer_id, 1) for buyer_id in buyers]
        deadline = await stock.now_ms() + 60_000
        reply = await stock.grab(sale.sale_id, grabs, deadline_ms=deadline, outbox_max=100)
        return "".join(reply.verdicts)

    return grab


@pytest.fixture
def complaints(verify):
    """Return the violations; counted twice, so that a passing one cannot hide."""

    async def count(sale, **options):
        first, second = await verify(sale, **options), await verify(sale, **options)
        assert first.violations == second.violations
        assert first.balanced is (first.violations == [])
        return "\n".join(first.violations)

    return count
