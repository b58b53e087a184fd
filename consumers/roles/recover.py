"""recover: finishes the transactions of killed processes, and those that are due for an attempt."""

from __future__ import annotations

from consumers.resources import Resources
from consumers.roles.saga_steps import sagas
from consumers.runtime.activity import REST_S
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill.payments import checkout
from seckill.transactions.log import TransactionLog
from seckill.transactions.recovery import Engine, Recovery
from seckill.transactions.tcc import Coordinator

#: The lease of a killed process lasts 10 s; its buyers do not notice half a second more.
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
    """Return the role over the stores of this process."""
    log = TransactionLog(stores.db)
    engines: list[Engine] = [Coordinator(checkout.definition(stores.db), log), *sagas(stores)]
    recovery = Recovery(log, engines, retention_s=stores.settings.transaction_retention_s)
    return PollRole("recover", Recover(recovery).run_once, idle_s=IDLE_S, rest_s=REST_S)
