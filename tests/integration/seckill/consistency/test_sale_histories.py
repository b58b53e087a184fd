"""Any history of grabs, orders, returns, losses and repairs ends in ledger that balance."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seckill import messages
from seckill.consistency import diff, fencing, verify
from seckill.consistency.rebuild import Rebuild
from seckill.consistency.repair import Reconciler
from seckill.inventory import stock_returns
from seckill.inventory.reservations import Grab, Verdict
from seckill.order_ids import new_order_id
from seckill.orders import orders
from seckill.orders.orders import Placement

STOCK = 3
#: Old enough to have lost its message, whenever it was made.
ANY_AGE_MS = -60_000

buyers = st.sampled_from(["ann", "bob", "cat", "dan", "eve"])
steps = st.one_of(
    st.tuples(st.just("grab"), buyers),
    st.tuples(st.just("place"), st.integers(0, 5)),
    st.tuples(st.just("release"), buyers),
    *(
        st.tuples(st.just(what), st.none())
        for what in ("give_back", "photograph", "go_back_in_time", "flush", "rebuild", "reconcile")
    ),
)


class SaleHistory:
    """One sale through what may happen to it. Its messages stay, so each may come again."""

    def __init__(self, sale, shop):
        self.sale = sale
        self._shop = shop
        self._messages = []
        self._photograph = {}
        self._rebuild = Rebuild(shop.store, shop.db)
        self._reconciler = Reconciler(shop.store, shop.db, self, self._nothing_waits, actor="test")

    async def grab(self, buyer):
        grab = Grab(new_order_id(self.sale.number), buyer, 1)
        deadline = await self._shop.stock.now_ms() + 60_000
        reply = await self._shop.stock.grab(
            self.sale.sale_id, [grab], deadline_ms=deadline, outbox_max=100
        )
        if reply.verdicts == [Verdict.ACCEPTED]:
            outbox_ids = [reply.outbox_id]
            await self.publish(
                "", messages.encode_place(self.sale.sale_id, reply.epoch, outbox_ids, [grab])
            )
            await self._shop.stock.ack_outbox(self.sale.sale_id, outbox_ids)

    async def publish(self, _, body):
        """Keep what the gateway and reconcile publish."""
        self._messages.append(messages.decode_place(body))

    async def place(self, number):
        if self._messages:
            message = self._messages[number % len(self._messages)]
            await self._shop.place(
                *(
                    Placement(
                        grab.order_id,
                        message.sale_id,
                        grab.buyer_id,
                        grab.quantity,
                        message.epoch,
                        message.outbox_mark,
                    )
                    for grab in message.grabs
                )
            )

    async def release(self, buyer):
        mine = await self._shop.db.fetch(
            "SELECT order_id::text FROM orders WHERE sale_id = $1 AND buyer_id = $2",
            self.sale.sale_id,
            buyer,
        )
        ids = sorted(row[0] for row in mine)
        await orders.release(self._shop.db, ids, to_state="cancelled", reason="buyer")

    async def give_back(self, _):
        await self._shop.db.execute("UPDATE stock_returns SET due_at = now()")
        await stock_returns.return_batch(self._shop.db, self._shop.stock)

    async def photograph(self, _):
        self._photograph = {name: await self._shop.store.dump(name) for name in await self._names()}

    async def go_back_in_time(self, _):
        if self._photograph:
            await self.flush(None)
            for name, dump in self._photograph.items():
                await self._shop.store.restore(name, 0, dump)

    async def flush(self, _):
        for name in await self._names():
            await self._shop.store.delete(name)

    async def rebuild(self, _):
        await self._rebuild.fence([self.sale.sale_id], force=True)
        await self._rebuild.run(self.sale.sale_id, actor="test", reason="test")

    async def reconcile(self, _):
        standing = await self._standing()
        if standing.stamp is not None:
            found = await diff.compare_sale(
                self._shop.store, self._shop.db, self.sale.sale_id, age_ms=ANY_AGE_MS
            )
            await self._reconciler.repair(
                self.sale.sale_id, standing.stamp.epoch, list(found.differences.values())
            )

    async def come_to_rest(self):
        """Do what the roles and an operator do, until nothing is left to be done."""
        for _ in range(4):  # what one repair lays open is the next one's
            for number in range(len(self._messages)):
                await self.place(number)
            if (await self._standing()).fence_reason:
                await self.rebuild(None)
            await self.reconcile(None)
            await self.give_back(None)
        ledger = await verify.verify(self._shop.store, self._shop.db, self.sale.sale_id)
        assert (ledger.violations, ledger.quiet) == ([], True)

    async def assert_sold_once(self):
        """I1, I2 within PostgreSQL, at any instant; I3 is an index."""
        live = await self._shop.db.fetchval(
            "SELECT coalesce(sum(quantity), 0) FROM orders"
            " WHERE sale_id = $1 AND state = 'pending'",
            self.sale.sale_id,
        )
        available, frozen, _ = await self._shop.inventory(self.sale)
        assert (frozen, available) == (live, STOCK - live)

    async def assert_all_promises_have_rows(self):
        """I4: every buyer who got 202 has a row."""
        promised = {grab.order_id for message in self._messages for grab in message.grabs}
        assert promised == (await self._shop.rows(self.sale)).keys() & promised

    async def _standing(self):
        surveyed = await fencing.survey(self._shop.store, self._shop.db, [self.sale.sale_id])
        return surveyed[self.sale.sale_id]

    async def _names(self):
        pattern = f"sk:{{{self.sale.sale_id}}}:*"
        return [name async for name in self._shop.store.scan_iter(pattern)]

    async def _nothing_waits(self):
        return 0


@pytest.fixture(autouse=True)
async def nothing_else_comes_back(db):
    await db.execute("DELETE FROM stock_returns")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(steps, max_size=25))
async def test_F5_F8_nothing_is_sold_twice_or_lost_in_any_history(open_sale, shop, history):
    walked = SaleHistory(await open_sale(stock=STOCK), shop)
    for what, argument in history:
        await getattr(walked, what)(argument)
        await walked.assert_sold_once()
    await walked.come_to_rest()
    await walked.assert_sold_once()
    await walked.assert_all_promises_have_rows()
