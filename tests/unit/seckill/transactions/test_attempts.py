"""One stage at one branch: what is tried again, what is halved, and what is kept apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from seckill.backoff import Backoff
from seckill.errors import Permanent, Unavailable
from seckill.transactions import attempts
from seckill.transactions.attempts import RefusedToEnd, StageResult, attempt
from seckill.transactions.branches import PartlyDone
from seckill.transactions.states import BranchCall, BranchOp

A, B, C, D = (BranchCall(tx_id, {}) for tx_id in "abcd")


class Scripted:
    """A branch that does what the test says, call by call, and then agrees."""

    name = "scripted"

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.calls: list[str] = []

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        self.calls.append("".join(call.tx_id for call in calls))
        step = self.script.pop(0) if self.script else {}
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, dict)
        return step


class Poisoned(Scripted):
    """A branch that fails for good whenever `poison` is among the works."""

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        await super().run(op, calls)
        if C in calls:
            raise ArithmeticError
        return {}


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(attempts, "BACKOFF", Backoff(0.0, 0.2))


async def test_one_call_when_all_is_well():
    branch = Scripted({"b": "no"})
    assert await attempt(branch, BranchOp.TRY, [A, B, C]) == StageResult({"b": "no"}, {})
    assert branch.calls == ["abc"]


async def test_an_unavailable_store_is_asked_again_for_all_without_halving():
    branch = Scripted(Unavailable(), Unavailable())
    assert await attempt(branch, BranchOp.TRY, [A, B]) == StageResult({}, {})
    assert branch.calls == ["ab"] * 3


async def test_what_stays_unknown_is_neither_done_nor_refused():
    unavailable = Unavailable()
    branch = Scripted(unavailable, unavailable, unavailable)
    assert await attempt(branch, BranchOp.TRY, [A, B]) == StageResult(
        {}, {"a": unavailable, "b": unavailable}
    )
    assert branch.calls == ["ab"] * attempts.TRIES


async def test_only_those_that_failed_are_asked_again():
    branch = Scripted(PartlyDone({"a": "no"}, {"c": Unavailable()}))
    assert await attempt(branch, BranchOp.TRY, [A, B, C]) == StageResult({"a": "no"}, {})
    assert branch.calls == ["abc", "c"]


async def test_a_bug_is_halved_down_to_the_one_that_hits_it_and_not_tried_again():
    branch = Poisoned()
    refused, failed = await attempt(branch, BranchOp.TRY, [A, B, C, D])
    assert (refused, list(failed)) == ({}, ["c"])
    assert branch.calls == ["abcd", "ab", "cd", "c", "d"]


@pytest.mark.parametrize("op", [BranchOp.CONFIRM, BranchOp.CANCEL, BranchOp.UNDO])
async def test_what_may_not_be_refused_is_in_trouble_when_it_is(op):
    refused, failed = await attempt(Scripted({"a": "no"}), op, [A, B])
    assert refused == {}
    assert list(failed) == ["a"]
    assert isinstance(failed["a"], RefusedToEnd)
    assert isinstance(failed["a"], Permanent)
