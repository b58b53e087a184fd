"""Saga: do steps one after the other; if one cannot be done, undo it and those before it.

Each step is one message on the broker that names a saga and a position (doing or undoing, and which
step). The position is in the log, so any worker can take any message: it does the step if the saga
is still at that position, moves the log on by compare-and-set, and sends the message of the next
step. A message that comes twice finds another position in the log, or passes the barrier once. A
lost message, or a worker that is killed between any two of these, leaves a row whose lease runs
out: recovery sends the message again. A step that failed gets its next attempt in the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from seckill import messages, metrics
from seckill.adapters import topology
from seckill.adapters.publisher import Publisher
from seckill.backoff import Backoff
from seckill.errors import Transient, Unavailable
from seckill.spans import trace_of_args
from seckill.transactions.attempts import HOLD_S, attempt, is_held, notes_of, record_transaction
from seckill.transactions.branches import Definition
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import (
    AttemptNote,
    BranchOp,
    LoggedTransaction,
    SagaMove,
    SagaPosition,
    TransactionState,
)

log = logging.getLogger(__name__)

#: Waits between attempts at a step, and how many: about two minutes, because a buyer waits for the
#: outcome. Undoing is tried for a quarter of an hour; after that an operator should know.
BACKOFF = Backoff(1.0, 60.0)
DO_ATTEMPTS_MAX, UNDO_ATTEMPTS_MAX = 8, 20

_OP = {TransactionState.RUNNING: BranchOp.DO, TransactionState.COMPENSATING: BranchOp.UNDO}


class Saga:
    """Runs the sagas of one definition, as one worker among many."""

    engine = "saga"

    def __init__(self, definition: Definition, log: TransactionLog, publisher: Publisher) -> None:
        self.name = definition.name
        self._steps = definition.branches
        self._log = log
        self._publisher = publisher

    async def announce(self, positions: Sequence[SagaPosition]) -> None:
        """Send the messages of positions; what cannot be sent now is left to recovery."""
        try:
            await asyncio.gather(
                *(
                    self._publisher.publish(
                        topology.SAGA_STEPS, messages.encode_saga_step(self.name, *position)
                    )
                    for position in positions
                )
            )
        except Unavailable as error:
            log.debug("%s: %d steps left to recover: %s", self.name, len(positions), error)

    async def resume(self, taken: Sequence[LoggedTransaction]) -> None:
        """Send the messages of sagas that were left, or whose next attempt is due."""
        await self.announce([t.position for t in taken])

    async def handle(self, positions: Sequence[SagaPosition]) -> None:
        """Do the named steps of sagas that are still there; raise Unavailable without the log."""
        at: dict[tuple[TransactionState, int], list[LoggedTransaction]] = defaultdict(list)
        for saga in await self._log.claim(self.name, sorted(set(positions))):
            at[saga.state, saga.step].append(saga)
        for (state, step), sagas in at.items():
            if step < len(self._steps):
                await self._work(state, step, sagas)
            else:  # begun by a newer version, which will take the message
                log.warning("%s: no step %d in this version", self.name, step + 1)
                await self._log.put_off(dict.fromkeys((s.tx_id for s in sagas), BACKOFF.last_s))

    async def _work(
        self, state: TransactionState, step: int, sagas: Sequence[LoggedTransaction]
    ) -> None:
        """Do or undo one step of sagas that are all at it, and move them on."""
        branch, op = self._steps[step], _OP[state]
        refused, failed = await attempt(branch, op, [s.call for s in sagas], tries=1)
        done = [s for s in sagas if s.tx_id not in refused and s.tx_id not in failed]
        notes = notes_of(branch, op, refused, failed)
        await self._log.note([*notes, *(AttemptNote(s.tx_id, branch.name, op) for s in done)])
        reasons = {note.tx_id: note.error for note in notes}
        spent = [s for s in sagas if s.tx_id in failed and _is_spent(s, failed[s.tx_id])]
        moves = [self._after(s, state, step + (1 if op is BranchOp.DO else -1)) for s in done]
        if op is BranchOp.DO:
            # Undo from this step, not from the one before: undoing a step that was refused or
            # never came does nothing, and then a second copy of its message does nothing either.
            given_up = [s for s in sagas if s.tx_id in refused] + spent
            moves += [
                self._after(s, TransactionState.COMPENSATING, step, reasons[s.tx_id])
                for s in given_up
            ]
        elif spent:
            await self._park(spent)
        await self._advance(moves, {saga.tx_id: saga for saga in sagas})
        if held := [s.tx_id for s in sagas if s.tx_id in failed and is_held(failed[s.tx_id])]:
            await self._log.hold(held, HOLD_S)
        waiting = [s for s in sagas if s.tx_id in failed.keys() - {*held} and s not in spent]
        if waiting:
            await self._log.put_off({s.tx_id: BACKOFF.wait_s(s.attempts + 1) for s in waiting})

    def _after(
        self, saga: LoggedTransaction, state: TransactionState, step: int, reason: str | None = None
    ) -> SagaMove:
        """Return the move of a saga to a step, or to its end if there is no such step."""
        if step == len(self._steps):
            state = TransactionState.COMPLETED
        elif step < 0:
            state = TransactionState.COMPENSATED
        ended = state not in _OP
        return SagaMove(saga.position, state, saga.step if ended else step, ended, reason)

    async def _advance(
        self, moves: Sequence[SagaMove], sagas: Mapping[str, LoggedTransaction]
    ) -> None:
        """Move sagas on; send the next messages of those that this worker moved."""
        if not moves:
            return
        moved = await self._log.advance(moves)
        mine = [move for move in moves if move.position.tx_id in moved]
        for move in mine:
            if move.ended:
                metrics.TRANSACTIONS.labels(self.engine, move.to_state.lower()).inc()
                self._record(sagas[move.position.tx_id], move.to_state, move.reason)
        onward = [
            SagaPosition(m.position.tx_id, m.to_state, m.to_step) for m in mine if not m.ended
        ]
        if onward:
            await self.announce(onward)

    async def _park(self, sagas: Sequence[LoggedTransaction]) -> None:
        ids = [saga.tx_id for saga in sagas]
        log.error(
            "%s: parked for an operator: %s",
            self.name,
            ", ".join(ids),
            extra={"event": "transaction_parked", "tx_ids": ids},
        )
        await self._log.park(ids)
        metrics.TRANSACTIONS.labels(self.engine, "parked").inc(len(ids))
        for saga in sagas:
            self._record(saga, TransactionState.FAILED)

    def _record(
        self, saga: LoggedTransaction, state: TransactionState, reason: str | None = None
    ) -> None:
        why = reason or saga.reason
        if state is not TransactionState.FAILED:
            _log_end(saga, state, why)
        record_transaction(f"saga {self.name}", saga.call, saga.created_ns, state, why)


def _is_spent(saga: LoggedTransaction, error: Exception) -> bool:
    """Return whether a step that has just failed gets no further attempt."""
    if is_held(error):
        return False
    made = saga.attempts + 1
    if saga.state is TransactionState.COMPENSATING:
        return made >= UNDO_ATTEMPTS_MAX
    return made >= DO_ATTEMPTS_MAX or not isinstance(error, Transient)


def _log_end(saga: LoggedTransaction, state: TransactionState, why: str | None) -> None:
    context = trace_of_args(saga.args)
    log.log(
        logging.INFO if state is TransactionState.COMPLETED else logging.WARNING,
        "saga %s of order %s: %s%s",
        saga.name,
        saga.args.get("order_id", "unknown"),
        state.lower(),
        f" ({why})" if why else "",
        extra={
            "event": "saga_ended",
            "order_id": saga.args.get("order_id"),
            "sale_id": saga.args.get("sale_id"),
            "tx_id": saga.tx_id,
            "state": state.lower(),
            **({"trace_id": context.trace_id} if context else {}),
        },
    )
