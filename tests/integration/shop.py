"""Both stores of a sale, with everything that a test does to them or looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.inventory import stock_returns
from seckill.inventory.reservations import Grab, Holding, Stock, Verdict
from seckill.order_ids import new_order_id
from seckill.orders import orders
from seckill.orders.orders import NotPlaced, Placement
from seckill.sales import sales
from seckill.sales.sales import Sale

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Shop:
    """Both stores of a sale, with everything that a test does to them or reads."""

    db: asyncpg.Pool
    store: Redis
    stock: Stock

    # Grabs and orders.

    @staticmethod
    def wish(sale: Sale, buyer: str, quantity: int = 1, *, epoch: int = 1) -> Placement:
        """Make a placement that Redis does not know, as if it had promised too much."""
        return Placement(new_order_id(sale.number), sale.sale_id, buyer, quantity, epoch)

    async def grab(
        self, sale: Sale, *buyers: str, quantity: int = 1, settle: bool = True
    ) -> list[Placement]:
        """Grab in Redis for each buyer, as a gateway whose message the broker confirmed."""
        grabs = [Grab(new_order_id(sale.number), buyer, quantity) for buyer in buyers]
        reply = await self.stock.grab(
            sale.sale_id,
            grabs,
            deadline_ms=await self.stock.now_ms() + HOUR_MS,
            outbox_max=1000,
        )
        assert set(reply.verdicts) == {Verdict.ACCEPTED}
        if settle:
            await self.stock.ack_outbox(sale.sale_id, [reply.outbox_id])
        return [Placement(g[0], sale.sale_id, g[1], g[2], reply.epoch) for g in grabs]

    async def order(self, sale: Sale, *buyers: str, quantity: int = 1) -> list[Placement]:
        """Grab and place for each buyer."""
        placements = await self.grab(sale, *buyers, quantity=quantity)
        assert await self.place(*placements) == []
        return placements

    async def place(self, *placements: Placement) -> list[NotPlaced]:
        """Place a batch; return what did not become a pending order."""
        return await orders.place(self.db, placements)

    async def place_unseen(self, sale: Sale, buyer: str) -> Placement:
        """Place an order of which Redis knows nothing."""
        placement = self.wish(sale, buyer)
        assert await self.place(placement) == []
        return placement

    async def release(self, *placements: Placement) -> list[str]:
        """Cancel orders as their buyers would."""
        ids = [p.order_id for p in placements]
        return await orders.release(self.db, ids, to_state="cancelled", reason="buyer")

    async def return_all(self, sale: Sale) -> None:
        """Return units until no stock return of the sale is left."""
        while await self.returns(sale):
            assert (await stock_returns.return_batch(self.db, self.stock)).done

    async def end(self, sale: Sale) -> Sale:
        """Close a sale, an hour ago."""
        closed = await sales.close(self.db, self.stock, sale.sale_id)
        await self.db.execute(
            "UPDATE sales SET closed_at = now() - interval '1 hour' WHERE sale_id = $1",
            sale.sale_id,
        )
        return closed

    async def bump_epoch(self, sale: Sale) -> None:
        """Do what a rebuild of Redis does first."""
        await self.db.execute(
            "UPDATE inventory SET epoch = epoch + 1 WHERE sale_id = $1", sale.sale_id
        )

    async def let_expire(self, *placements: Placement) -> None:
        """Move the end of the payment window an hour into the past."""
        await self.db.execute(
            "UPDATE orders SET pay_by = now() - interval '1 hour' WHERE order_id = ANY($1)",
            [p.order_id for p in placements],
        )

    # In PostgreSQL.

    async def inventory(self, sale: Sale) -> tuple[int, int, int]:
        """Return (available, frozen, sold)."""
        row = await self.db.fetchrow(
            "SELECT available, frozen, sold FROM inventory WHERE sale_id = $1", sale.sale_id
        )
        return tuple(row)

    async def rows(self, sale: Sale) -> dict[str, tuple[str, str | None]]:
        """Return order_id -> (state, reason)."""
        rows = await self.db.fetch(
            "SELECT order_id::text, state, reason FROM orders WHERE sale_id = $1", sale.sale_id
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    async def states(self, sale: Sale, placements: Sequence[Placement]) -> list[str | None]:
        """Return the states of these orders in their order, as `state` or `state reason`."""
        rows = await self.rows(sale)
        found = [rows.get(p.order_id) for p in placements]
        return [row and " ".join(filter(None, row)) for row in found]

    async def returns(self, sale: Sale) -> dict[str, int]:
        """Return order_id -> units on their way back."""
        return dict(
            await self.db.fetch(
                "SELECT order_id::text, units FROM stock_returns WHERE sale_id = $1", sale.sale_id
            )
        )

    # In Redis.

    async def left(self, sale: Sale) -> int | None:
        return (await self.stock.left_of([sale.sale_id]))[0]

    async def holders(self, sale: Sale) -> dict[str, Holding]:
        raw = await self.store.hgetall(redis_keys.holders(sale.sale_id))
        return {buyer.decode(): Holding.parse(text.decode()) for buyer, text in raw.items()}

    async def outbox_size(self, sale: Sale) -> int:
        return int(await self.store.xlen(redis_keys.outbox(sale.sale_id)))
