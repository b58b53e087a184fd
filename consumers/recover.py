"""recover: finishes the transactions that a killed process left, and those due for an attempt."""

from __future__ import annotations

from consumers.runner import Polled
from seckill.transactions.recovery import Recovery

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
