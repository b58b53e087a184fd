"""One stage of many transactions at one branch: halved around what fails, and tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seckill.backoff import Backoff
from seckill.errors import Permanent, Transient, Unavailable
from seckill.transactions.branches import Branch, PartlyDone
from seckill.transactions.states import AttemptNote, BranchCall, BranchOp

log = logging.getLogger(__name__)

#: A lost reply or a lock is over by then; what takes longer is left to `recover`, for a caller
#: waits meanwhile.
TRIES = 3
BACKOFF = Backoff(0.05, 0.2)


class RefusedToEnd(Permanent):
    """A branch refused an operation that may not be refused."""


class StageResult(NamedTuple):
    """What became of a stage; those in neither are done."""

    refused: dict[str, str]
    #: Outcome unknown, or impossible; never taken for either done or refused.
    failed: dict[str, Exception]


async def attempt(
    branch: Branch, op: BranchOp, works: Sequence[BranchCall], *, tries: int = TRIES
) -> StageResult:
    """Run an operation; what fails for now is tried again, `tries` times in all.

    A failure that is not about a store being away may be the fault of one work alone, so the batch
    is halved until that one is by itself.
    """
    refused: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    for number in range(1, tries + 1):
        again = await _halving(branch, op, works)
        refused |= again.refused
        failed |= again.failed
        works = [w for w in works if isinstance(again.failed.get(w.tx_id), Transient)]
        for work in works:
            if number < tries:
                del failed[work.tx_id]
        if not works:
            break
        if number < tries:
            await asyncio.sleep(BACKOFF.wait_s(number))
    if refused and op not in (BranchOp.TRY, BranchOp.DO):
        failed |= {t: RefusedToEnd(f"{branch.name} refused {op}: {r}") for t, r in refused.items()}
        refused = {}
    return StageResult(refused, failed)


def notes_of(
    branch: Branch, op: BranchOp, refused: Mapping[str, str], failed: Mapping[str, Exception]
) -> list[AttemptNote]:
    """Return what an operator should know of what did not work."""
    errors = dict(refused) | {t: f"{type(e).__name__}: {e}" for t, e in failed.items()}
    return [AttemptNote(tx_id, branch.name, op, error) for tx_id, error in errors.items()]


async def _halving(branch: Branch, op: BranchOp, works: Sequence[BranchCall]) -> StageResult:
    try:
        return StageResult(dict(await branch.run(op, works)), {})
    except PartlyDone as partly:
        return StageResult(dict(partly.refused), dict(partly.failed))
    except Unavailable as error:
        return StageResult({}, {work.tx_id: error for work in works})
    except Exception as error:  # kept with the transaction, and shown to the operator
        if len(works) == 1:
            log.exception("%s of %s failed for %s", op, branch.name, works[0].tx_id)
            return StageResult({}, {works[0].tx_id: error})
    middle = len(works) // 2
    first = await _halving(branch, op, works[:middle])
    rest = await _halving(branch, op, works[middle:])
    return StageResult(first.refused | rest.refused, first.failed | rest.failed)
