"""recover: finishes the transactions that a killed process left, and those due for an attempt."""

from __future__ import annotations

from consumers.resources import Resources
from consumers.roles.saga_steps import sagas
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill.payments import checkout
from seckill.transactions.log import TransactionLog
from seckill.transactions.recovery import Engine, Recovery
from seckill.transactions.tcc import Coordinator

#: Buyers of a killed process wait for their lease (10 s) anyway; half a second more is nothing.
IDLE_S = 0.5


class Recover:
    """Polls for transactions whose lease or wait is over."""

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery

    async def run_once(self) -> Polled:
        """Resume one batch."""
        recovered = await self._recovery.run_once()
        return Polled(recovered.taken + recovered.removed, recovered.full)


def build(stores: Resources) -> Role:
    """Return the role, on the stores of this process."""
    log = TransactionLog(stores.db)
    engines: list[Engine] = [*_coordinators(stores, log), *sagas(stores)]
    recovery = Recovery(log, engines, retention_s=stores.settings.transaction_retention_s)
    return PollRole("recover", Recover(recovery).run_once, idle_s=IDLE_S)


def _coordinators(stores: Resources, log: TransactionLog) -> list[Coordinator]:
    return [Coordinator(checkout.definition(stores.db), log)]
