"""The dead letters of a test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

from seckill import messages
from seckill.adapters import topology
from seckill.dead_letters import parser
from seckill.dead_letters import store as dead_letters
from seckill.dead_letters.store import DeadLetter, LetterFilter, NewLetter
from seckill.orders.orders import Placement


@dataclass(frozen=True)
class Letters:
    """The dead letters of a test; there are none at first."""

    db: asyncpg.Pool

    async def arrive(
        self,
        body: bytes,
        headers: dict[str, Any] | None = None,
        *,
        queue: str = topology.ORDERS_PLACE,
    ) -> list[NewLetter]:
        """Write a message down that died on a queue."""
        message = parser.read(queue, body, headers or {})
        return await dead_letters.arrive(self.db, [message])

    async def naming(self, *placements: Placement, **as_named: Any) -> DeadLetter:
        """Write a letter down that names grabs of a sale, with changes if any are given."""
        named = [placement._replace(**as_named) for placement in placements]
        entries = [[p.order_id, p.buyer_id, p.quantity] for p in named]
        first = named[0]
        body = messages.encode_place(first.sale_id, first.epoch, [], entries)
        (arrival,) = await self.arrive(body, {"x-reason": "test"})
        return await dead_letters.find(self.db, arrival.letter_id)

    async def all(self, meant: LetterFilter | None = None) -> list[DeadLetter]:
        """Return letters, oldest first."""
        return await dead_letters.page(self.db, meant or LetterFilter(state=None), limit=1000)

    async def states(self) -> list[str]:
        """Return the states of all letters."""
        return [letter.state for letter in await self.all()]

    async def close_all(self, state: str) -> None:
        """Close every letter."""
        async with self.db.acquire() as connection, connection.transaction():
            for letter in await self.all():
                await dead_letters.close(
                    connection, letter.letter_id, state=state, actor="test", reason=None
                )

    async def audited(self, action: str) -> list[dict[str, Any]]:
        """Return the audit rows of an action."""
        rows = await self.db.fetch("SELECT * FROM audit WHERE action = $1 ORDER BY at", action)
        return [{**row, "details": json.loads(row["details"])} for row in rows]
