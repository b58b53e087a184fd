"""Fulfilment in the test's own process: each message is handled as soon as it is sent."""

from __future__ import annotations

from typing import Any

import asyncpg

from seckill import messages
from seckill.payments import fulfilment
from seckill.transactions.log import TransactionLog
from seckill.transactions.saga import Saga
from seckill.transactions.states import SagaPosition, TransactionState


class StepRecorder:
    """A publisher that keeps what it is to publish."""

    def __init__(self) -> None:
        self._steps: list[SagaPosition] = []

    async def publish(self, _queue: str, body: bytes) -> None:
        step = messages.decode_saga_step(body)
        self._steps.append(SagaPosition(step.tx_id, TransactionState(step.state), step.step))

    def take(self) -> list[SagaPosition]:
        """Return what was published since the last call."""
        steps, self._steps = self._steps, []
        return steps


class FulfilmentWorker:
    """One worker of the saga `fulfilment`."""

    def __init__(self, db: Any, provider: Any = None) -> None:
        self._db = db
        self._recorder = StepRecorder()
        publisher: Any = self._recorder
        self.saga = Saga(fulfilment.definition(db, provider), TransactionLog(db), publisher)

    async def open_steps(self, sale_id: str) -> list[SagaPosition]:
        """Return where the open sagas of a sale are."""
        rows = await self._db.fetch(
            "SELECT tx_id, state, step FROM transactions"
            " WHERE name = $1 AND args ->> 'sale_id' = $2 AND due_at IS NOT NULL",
            fulfilment.FULFILMENT,
            sale_id,
        )
        return [
            SagaPosition(row["tx_id"], TransactionState(row["state"]), row["step"]) for row in rows
        ]

    async def step(self, sale_id: str) -> None:
        """Do the next step of each open saga of a sale, and lose the messages that follow."""
        await self.saga.handle(await self.open_steps(sale_id))
        self._recorder.take()

    async def run(self, sale_id: str) -> None:
        """Do all that can be done for a sale now."""
        steps = await self.open_steps(sale_id)
        while steps:
            await self.saga.handle(steps)
            steps = self._recorder.take()


async def saga_of(db: asyncpg.Pool, order_id: str) -> tuple[str, str | None] | None:
    """Return (state, reason) of an order's saga; None without one."""
    row = await db.fetchrow(
        "SELECT state, reason FROM transactions WHERE tx_id = $1", fulfilment.tx_id_of(order_id)
    )
    return tuple(row) if row else None
