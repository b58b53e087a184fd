"""saga_steps: does the Saga steps that messages name, and publishes the next step of each Saga.

A step done twice is one step: each passes its barrier (`seckill/transactions/barrier.py`). A step
whose message is lost is found by `recover`.
"""

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

#: Weight of the steps taken together, about 100 messages. Those at the same step share a
#: transaction, and its rows stay locked until the last of them.
BATCH_MAX = 300


class UnknownSaga(Transient):
    """The process has no Saga of that name; a newer one may have it."""


class SagaSteps:
    """Gives steps to the Sagas that define them."""

    def __init__(self, sagas: Iterable[Saga]) -> None:
        self._sagas = {saga.name: saga for saga in sagas}

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Do the steps of a batch; those at the same step of the same Saga go together."""
        of: dict[str, list[SagaPosition]] = defaultdict(list)
        for message in batch:
            step = messages.decode_saga_step(message.body)
            if step.saga not in self._sagas:
                raise UnknownSaga(f"no saga {step.saga} in this version")
            of[step.saga].append(SagaPosition(step.tx_id, TransactionState(step.state), step.step))
        for name, positions in of.items():
            await self._sagas[name].handle(positions)


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    handle = SagaSteps(sagas(stores)).handle
    return queue_role(stores, "saga_steps", topology.SAGA_STEPS, handle, batch_max=BATCH_MAX)


def sagas(stores: Resources) -> list[Saga]:
    """Return the Sagas of this shop."""
    fulfilling = fulfilment.definition(stores.db, stores.provider)
    return [Saga(fulfilling, TransactionLog(stores.db), stores.publisher)]
