"""TCC: try every branch, decide once, then confirm all of them or cancel all of them.

A batch goes through the stages together, so that each costs one call for hundreds of transactions:
begin in the log -> try each branch in turn, for transactions that no branch has refused -> decide
in the log -> confirm or cancel each branch -> end in the log. After a kill between any two stages
`resume` goes on by the log:

| the log says | so | resume |
|---|---|---|
| TRYING | no branch has confirmed | decides to cancel |
| CONFIRMING, CANCELING | it is decided | does that again; the barrier lets each call through once |

An unknown outcome of a try is no refusal and no success: such a transaction is cancelled, and the
barrier refuses that try if it still arrives.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from seckill import metrics
from seckill.backoff import Backoff
from seckill.errors import Transient, Unavailable
from seckill.micro_batcher import MicroBatcher, Waiter
from seckill.transactions.attempts import (
    HOLD_S,
    TRIES,
    attempt,
    is_held,
    notes_of,
    record_transaction,
)
from seckill.transactions.branches import Definition
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import (
    Args,
    AttemptNote,
    BranchCall,
    BranchOp,
    LoggedTransaction,
    TransactionOutcome,
    TransactionState,
)

log = logging.getLogger(__name__)

#: The reasons that the engine itself gives.
UNAVAILABLE, BROKEN, ABANDONED = "unavailable", "error", "abandoned"

#: Waits between attempts to confirm or cancel, and how many: a quarter of an hour, longer than a
#: restart or a failover; after that an operator should know.
BACKOFF = Backoff(1.0, 60.0)
ATTEMPTS_MAX = 20

_OP = {TransactionState.CONFIRMING: BranchOp.CONFIRM, TransactionState.CANCELING: BranchOp.CANCEL}
_END = {
    TransactionState.CONFIRMING: TransactionState.CONFIRMED,
    TransactionState.CANCELING: TransactionState.CANCELED,
}


class CoordinatorFull(Transient):
    """As many transactions are in flight as this process may hold; try again later."""


class Coordinator:
    """Runs the transactions of one definition, in batches."""

    engine = "tcc"

    def __init__(
        self,
        definition: Definition,
        log: TransactionLog,
        *,
        capacity: int = 1_000,
        batch_max: int = 512,
        calls: int = 2,
    ) -> None:
        """Hold at most `capacity` transactions, and run up to `calls` batches at once."""
        self.name = definition.name
        self._branches = definition.branches
        self._log = log
        self._capacity = capacity
        self._batcher = MicroBatcher(self._answer, max_batch=batch_max, max_calls=calls)
        metrics.TRANSACTIONS_IN_FLIGHT.labels(self.name).set_function(
            lambda: self._batcher.in_flight
        )

    async def submit(self, tx_id: str, args: Args) -> TransactionOutcome:
        """Run one transaction to its end; raise CoordinatorFull if `capacity` are in flight.

        A tx_id that the log knows is not run again: its outcome so far is returned. If this raises
        Unavailable the outcome is unknown, and submitting the same tx_id again returns it.
        """
        if self._batcher.in_flight >= self._capacity:
            self._count("busy", 1)
            raise CoordinatorFull
        return await self._batcher.submit(BranchCall(tx_id, args))

    async def _answer(self, batch: Sequence[Waiter[BranchCall, TransactionOutcome]]) -> None:
        """Run a batch; a transaction that the log cannot write (an odd id) fails by itself."""
        calls = {waiter.item.tx_id: waiter.item for waiter in batch}
        try:
            outcomes = await self.run(list(calls.values()))
        except Exception as error:
            if isinstance(error, Unavailable) or len(batch) == 1:
                for waiter in batch:
                    waiter.fail(error)
                return
            middle = len(batch) // 2
            await self._answer(batch[:middle])
            await self._answer(batch[middle:])
        else:
            for waiter in batch:
                waiter.answer(outcomes[waiter.item.tx_id])

    async def run(self, calls: Sequence[BranchCall]) -> dict[str, TransactionOutcome]:
        """Run a batch of distinct transactions; return an outcome for each."""
        start_ns = time.time_ns()
        known = await self._log.begin(self.engine, self.name, TransactionState.TRYING, calls)
        new = [call for call in calls if call.tx_id not in known] if known else calls
        if not new:
            return known
        reasons = await self._try(new)
        wanted = {
            call.tx_id: TransactionOutcome(TransactionState.CANCELING, reasons[call.tx_id])
            if call.tx_id in reasons
            else TransactionOutcome(TransactionState.CONFIRMING)
            for call in new
        }
        outcomes = known | dict.fromkeys(wanted, TransactionOutcome(TransactionState.TRYING))
        try:
            decided = await self._decide(wanted)
        except Unavailable as error:  # what was decided, if anything, is in the log
            log.debug("%s: %d left to recover: %s", self.name, len(new), error)
            self._count("left", len(new))
            return outcomes
        for state in _OP:
            ending = [w for w in new if w.tx_id in decided and wanted[w.tx_id].state is state]
            ended = await self._end(state, ending)
            for call in ending:
                reached = _END[state] if call.tx_id in ended else state
                outcomes[call.tx_id] = TransactionOutcome(reached, reasons.get(call.tx_id))
                if call.tx_id in ended:
                    record_transaction(
                        f"tcc {self.name}", call, start_ns, reached, reasons.get(call.tx_id)
                    )
        return outcomes

    async def resume(self, taken: Sequence[LoggedTransaction]) -> None:
        """Finish transactions that a killed process left or that are due, one attempt each."""
        undecided = {
            t.tx_id: TransactionOutcome(TransactionState.CANCELING, ABANDONED)
            for t in taken
            if t.state is TransactionState.TRYING
        }
        decided = await self._log.decide(undecided) if undecided else set()
        attempts = {t.tx_id: t.attempts for t in taken}
        confirming = [t.call for t in taken if t.state is TransactionState.CONFIRMING]
        canceling = [
            t.call for t in taken if t.state is TransactionState.CANCELING or t.tx_id in decided
        ]
        begun = {t.tx_id: t for t in taken}
        for state, calls in (
            (TransactionState.CONFIRMING, confirming),
            (TransactionState.CANCELING, canceling),
        ):
            for tx_id in await self._end(state, calls, attempts):
                found = begun[tx_id]
                record_transaction(
                    f"tcc {self.name}", found.call, found.created_ns, _END[state], found.reason
                )

    async def _try(self, calls: Sequence[BranchCall]) -> dict[str, str]:
        """Try every branch; return tx_id -> reason for those that must be cancelled."""
        reasons: dict[str, str] = {}
        notes: list[AttemptNote] = []
        for branch in self._branches:
            refused, failed = await attempt(branch, BranchOp.TRY, calls)
            if not refused and not failed:
                continue
            reasons |= refused
            for tx_id, error in failed.items():
                reasons[tx_id] = UNAVAILABLE if isinstance(error, Transient) else BROKEN
            notes += notes_of(branch, BranchOp.TRY, refused, failed)
            calls = [call for call in calls if call.tx_id not in reasons]
            if not calls:
                break
        await self._note(notes)
        return reasons

    async def _decide(self, wanted: Mapping[str, TransactionOutcome]) -> set[str]:
        """Write the decisions down; repeat them once after a lost reply."""
        try:
            return await self._log.decide(wanted)
        except Unavailable:
            return await self._log.decide(wanted)

    async def _end(
        self,
        state: TransactionState,
        calls: Sequence[BranchCall],
        attempts: Mapping[str, int] | None = None,
    ) -> set[str]:
        """Confirm or cancel at every branch; return the transactions that every branch has done.

        `attempts` counts the earlier attempts if recovery makes this one: then each branch is
        called once, because the log keeps the waits, and successes are noted, too.
        """
        if not calls:
            return set()
        op = _OP[state]
        branches = self._branches if op is BranchOp.CONFIRM else self._branches[::-1]
        failures: dict[str, Exception] = {}
        notes: list[AttemptNote] = []
        for branch in branches:
            _, failed = await attempt(branch, op, calls, tries=1 if attempts else TRIES)
            failures |= failed
            notes += notes_of(branch, op, {}, failed)
            if attempts:
                notes += [
                    AttemptNote(w.tx_id, branch.name, op) for w in calls if w.tx_id not in failed
                ]
        done = [call.tx_id for call in calls if call.tx_id not in failures]
        try:
            if done:
                await self._log.end(done, state, _END[state])
            if failures:
                await self._leave(failures, attempts or {})
        except Unavailable as error:  # if a branch has not done it, the lease brings it back
            log.debug("%s: %d stay %s for now: %s", self.name, len(calls), state, error)
        await self._note(notes)
        self._count(_END[state].lower(), len(done))
        return set(done)

    async def _leave(self, failures: Mapping[str, Exception], attempts: Mapping[str, int]) -> None:
        """Put transactions off until their next attempt, or park them after their last."""
        held = [tx_id for tx_id, error in failures.items() if is_held(error)]
        if held:
            await self._log.hold(held, HOLD_S)
            self._count("left", len(held))
        made = {tx_id: attempts.get(tx_id, 0) + 1 for tx_id in failures.keys() - {*held}}
        spent = [tx_id for tx_id, number in made.items() if number >= ATTEMPTS_MAX]
        if spent:
            log.error(
                "%s: parked for an operator: %s",
                self.name,
                ", ".join(spent),
                extra={"event": "transaction_parked", "tx_ids": spent},
            )
            await self._log.park(spent)
            self._count("parked", len(spent))
        again = {
            tx_id: BACKOFF.wait_s(number) for tx_id, number in made.items() if number < ATTEMPTS_MAX
        }
        if again:
            await self._log.put_off(again)
            self._count("left", len(again))

    async def _note(self, notes: Sequence[AttemptNote]) -> None:
        """Note attempts for the operator; a note that is lost changes nothing."""
        if not notes:
            return
        try:
            await self._log.note(notes)
        except Unavailable as error:
            log.debug("%s: attempts not noted: %s", self.name, error)

    def _count(self, outcome: str, number: int) -> None:
        metrics.TRANSACTIONS.labels(self.engine, outcome).inc(number)
