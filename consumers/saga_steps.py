"""saga_steps: messages that name a step of a Saga; does it and sends the next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from aio_pika.abc import AbstractIncomingMessage

from seckill import messages
from seckill.errors import Transient
from seckill.transactions.saga import Saga
from seckill.transactions.work import Position, State


class UnknownSaga(Transient):
    """No definition of that name here; a newer process may know it."""


class SagaSteps:
    """Hands steps to the sagas that they belong to."""

    def __init__(self, sagas: Iterable[Saga]) -> None:
        self._sagas = {saga.name: saga for saga in sagas}

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Do the steps of a batch; those at the same step of the same saga go together."""
        of: dict[str, list[Position]] = defaultdict(list)
        for message in batch:
            step = messages.decode_saga_step(message.body)
            if step.saga not in self._sagas:
                raise UnknownSaga(f"no saga {step.saga} in this version")
            of[step.saga].append(Position(step.tx_id, State(step.state), step.step))
        for name, positions in of.items():
            await self._sagas[name].handle(positions)
