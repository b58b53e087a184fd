"""One stage of many transactions at one branch: tried again, and halved around a failure."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seckill import metrics
from seckill.adapters.failures import POSTGRESQL, RABBITMQ, REDIS
from seckill.backoff import Backoff
from seckill.errors import Permanent, Transient, Unavailable
from seckill.spans import SPANS, trace_of_args, trace_of_transaction
from seckill.transactions.branches import Branch, PartlyDone
from seckill.transactions.states import AttemptNote, BranchCall, BranchOp, TransactionState

log = logging.getLogger(__name__)

#: A lost reply or a lock is over by then. What takes longer is left to `recover`, because a caller
#: waits meanwhile.
TRIES = 3
BACKOFF = Backoff(0.05, 0.2)
#: Between two attempts at what is held; nothing counts them.
HOLD_S = 2.0


class RefusedToEnd(Permanent):
    """A branch refused an operation that may not be refused."""


class StageResult(NamedTuple):
    """The result of a stage, by tx_id; the other calls are done."""

    refused: dict[str, str]
    #: Outcome unknown, or impossible: neither done nor refused.
    failed: dict[str, Exception]


async def attempt(
    branch: Branch, op: BranchOp, calls: Sequence[BranchCall], *, tries: int = TRIES
) -> StageResult:
    """Run an operation; try what fails for now again, `tries` times in all.

    A failure other than an unavailable store may be the fault of one call alone, so the batch is
    halved until that call is by itself.
    """
    refused: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    began_at, number_of_calls = time.monotonic(), len(calls)
    all_calls, start_ns = calls, time.time_ns()
    for number in range(1, tries + 1):
        again = await _halving(branch, op, calls)
        refused |= again.refused
        failed |= again.failed
        calls = [w for w in calls if isinstance(again.failed.get(w.tx_id), Transient)]
        for call in calls:
            if number < tries:
                del failed[call.tx_id]
        if not calls:
            break
        if number < tries:
            await asyncio.sleep(BACKOFF.wait_s(number))
    took_s = time.monotonic() - began_at
    done = number_of_calls - len(refused) - len(failed)
    for result, times in (("done", done), ("refused", len(refused)), ("failed", len(failed))):
        if times > 0:
            metrics.TRANSACTION_STEP_SECONDS.labels(branch.name, op, result).observe(took_s, times)
    if refused and op not in (BranchOp.TRY, BranchOp.DO):
        failed |= {t: RefusedToEnd(f"{branch.name} refused {op}: {r}") for t, r in refused.items()}
        refused = {}
    if SPANS.on:
        _trace(branch, op, all_calls, start_ns, StageResult(refused, failed))
    return StageResult(refused, failed)


def is_held(error: Exception) -> bool:
    """Return whether a call failed because one of our own stores does not do the work.

    It is made again until that is over, and counts as no attempt.
    """
    return isinstance(error, Unavailable) and error.store in (REDIS, RABBITMQ, POSTGRESQL)


def notes_of(
    branch: Branch, op: BranchOp, refused: Mapping[str, str], failed: Mapping[str, Exception]
) -> list[AttemptNote]:
    """Return what an operator should know of the calls that were refused or failed.

    Calls that are held are left out: an outage is no attempt, and is in the log.
    """
    errors = dict(refused) | {
        t: f"{type(e).__name__}: {e}" for t, e in failed.items() if not is_held(e)
    }
    return [AttemptNote(tx_id, branch.name, op, error) for tx_id, error in errors.items()]


def record_transaction(
    name: str, call: BranchCall, start_ns: int, state: TransactionState, reason: str | None
) -> None:
    """Record the span of a whole transaction that has ended, or was parked, if it is traced."""
    context = trace_of_transaction(call.tx_id, call.args)
    if context is None:
        return
    is_good = state in (TransactionState.CONFIRMED, TransactionState.COMPLETED)
    SPANS.record(
        name,
        context,
        trace_of_args(call.args),
        start_ns,
        attributes={
            "seckill.tx_id": call.tx_id,
            "seckill.order_id": str(call.args.get("order_id", "")),
            "seckill.state": state.value,
        },
        error=None if is_good else f"{state}: {reason or 'unknown'}",
    )


def _trace(
    branch: Branch, op: BranchOp, calls: Sequence[BranchCall], start_ns: int, result: StageResult
) -> None:
    """Record a stage of the traced transactions among these."""
    for call in calls:
        parent = trace_of_transaction(call.tx_id, call.args)
        if parent is None:
            continue
        error, refused = result.failed.get(call.tx_id), result.refused.get(call.tx_id)
        why = f"{type(error).__name__}: {error}" if error else refused
        ending = "failed" if error else ("refused" if refused else "done")
        steps = metrics.TRANSACTION_STEP_SECONDS.labels(branch.name, op, ending)
        steps.exemplify((time.time_ns() - start_ns) / 1e9, parent.trace_id)
        SPANS.record(
            f"{op} {branch.name}",
            parent.child(),
            parent,
            start_ns,
            attributes={
                "seckill.tx_id": call.tx_id,
                "seckill.order_id": str(call.args.get("order_id", "")),
                "seckill.batch.size": len(calls),
            },
            error=why,
        )


async def _halving(branch: Branch, op: BranchOp, calls: Sequence[BranchCall]) -> StageResult:
    try:
        return StageResult(dict(await branch.run(op, calls)), {})
    except PartlyDone as partly:
        return StageResult(dict(partly.refused), dict(partly.failed))
    except Unavailable as error:
        return StageResult({}, {call.tx_id: error for call in calls})
    except Exception as error:  # kept with the transaction, and shown to the operator
        if len(calls) == 1:
            log.exception("%s of %s failed for %s", op, branch.name, calls[0].tx_id)
            return StageResult({}, {calls[0].tx_id: error})
    middle = len(calls) // 2
    first = await _halving(branch, op, calls[:middle])
    rest = await _halving(branch, op, calls[middle:])
    return StageResult(first.refused | rest.refused, first.failed | rest.failed)
