"""saga_steps: messages that name a step of a Saga; does it and sends the next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from aio_pika.abc import AbstractIncomingMessage

from consumers.resources import Resources
from consumers.runtime.queue_role import queue_role
from consumers.runtime.role import Role
from seckill import messages
from seckill.adapters import topology
from seckill.errors import Transient
from seckill.payments import fulfilment
from seckill.transactions.log import TransactionLog
from seckill.transactions.saga import Saga
from seckill.transactions.states import SagaPosition, TransactionState


class UnknownSaga(Transient):
    """No definition of that name here; a newer process may know it."""


class SagaSteps:
    """Hands steps to the sagas that they belong to."""

    def __init__(self, sagas: Iterable[Saga]) -> None:
        self._sagas = {saga.name: saga for saga in sagas}

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Do the steps of a batch; those at the same step of the same saga go together."""
        of: dict[str, list[SagaPosition]] = defaultdict(list)
        for message in batch:
            step = messages.decode_saga_step(message.body)
            if step.saga not in self._sagas:
                raise UnknownSaga(f"no saga {step.saga} in this version")
            of[step.saga].append(SagaPosition(step.tx_id, TransactionState(step.state), step.step))
        for name, positions in of.items():
            await self._sagas[name].handle(positions)


#: Weight of the Saga steps taken together, about 100 messages: those at the same step are done in
#: one transaction, and its rows stay locked until the last of them.
STEPS_BATCH_MAX = 300


def build(stores: Resources) -> Role:
    """Return the role, on the stores of this process."""
    handler = SagaSteps(sagas(stores))
    return queue_role(stores, "saga_steps", topology.SAGA_STEPS, handler.handle, STEPS_BATCH_MAX)


def sagas(stores: Resources) -> list[Saga]:
    """Return the Sagas of this shop."""
    fulfilling = fulfilment.definition(stores.db, stores.provider)
    return [Saga(fulfilling, TransactionLog(stores.db), stores.publisher)]
