"""TCC on a real PostgreSQL: what a coordinator promises, whatever happens to it or its branches."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from prometheus_client import REGISTRY

from seckill.backoff import Backoff
from seckill.errors import Unavailable
from seckill.transactions import attempts, log, tcc
from seckill.transactions.states import BranchCall, BranchOp, TransactionOutcome, TransactionState
from seckill.transactions.tcc import CoordinatorFull
from tests.transactions import (
    Fuse,
    Killed,
    LosesReplies,
    MortalPool,
    Probe,
    TransactionBench,
    new_calls,
    new_id,
)

ALL_TRIED = ["stock try", "wallet try", "coupon try"]
ALL_CONFIRMED = ["stock confirm", "wallet confirm", "coupon confirm"]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(attempts, "BACKOFF", Backoff(0.001, 0.2))


async def test_every_branch_is_tried_and_then_confirmed(bench, probe):
    tx_id = new_id()
    assert await bench.coordinator().submit(tx_id, {"cents": 5}) == TransactionOutcome(
        TransactionState.CONFIRMED
    )
    assert await probe.effects(tx_id) == ALL_TRIED + ALL_CONFIRMED


async def test_a_refusal_cancels_what_was_tried_and_nothing_else(bench, probe):
    tx_id = new_id()
    outcome = await bench.coordinator().submit(tx_id, {"refuses": "wallet try"})
    assert outcome == TransactionOutcome(TransactionState.CANCELED, "no")
    assert await probe.effects(tx_id) == ["stock try", "stock cancel"]


async def test_a_batch_goes_through_in_one_call_a_stage(bench, probe):
    fuse = Fuse()
    coordinator = bench.coordinator(MortalPool(probe.db, fuse), calls=1)
    await asyncio.gather(*(coordinator.submit(*call) for call in new_calls(100)))
    alone = Fuse()
    await bench.coordinator(MortalPool(probe.db, alone)).run(new_calls(1))
    assert fuse.passed == alone.passed


async def test_winners_and_losers_of_a_batch_do_not_touch_each_other(bench, probe):
    calls = new_calls(3) + new_calls(3, refuses="coupon try")
    outcomes = await bench.coordinator().run(calls)
    expected = [TransactionState.CONFIRMED] * 3 + [TransactionState.CANCELED] * 3
    assert [outcomes[call.tx_id].state for call in calls] == expected
    await probe.assert_whole(bench.names, calls)


async def test_a_transaction_submitted_again_is_not_run_again(bench, probe):
    coordinator = bench.coordinator()
    tx_id, refused = new_id(), new_id()
    both = await asyncio.gather(*(coordinator.submit(tx_id, {}) for _ in range(2)))
    later = await bench.coordinator().submit(tx_id, {})
    assert [*both, later] == [TransactionOutcome(TransactionState.CONFIRMED)] * 3
    assert await probe.effects(tx_id) == ALL_TRIED + ALL_CONFIRMED
    for _ in range(2):
        outcome = await coordinator.submit(refused, {"refuses": "stock try"})
        assert outcome == TransactionOutcome(TransactionState.CANCELED, "no")


async def test_one_that_another_process_works_on_is_pending(bench, probe):
    call = BranchCall(new_id(), {})
    other = bench.coordinator()
    await other._log.begin("tcc", bench.name, TransactionState.TRYING, [call])
    outcome = await bench.coordinator().submit(*call)
    assert (outcome.confirmed, outcome.state) == (False, TransactionState.TRYING)
    assert await probe.effects(call.tx_id) == []


async def test_beyond_its_capacity_a_coordinator_refuses_at_once(bench, probe):
    coordinator = bench.coordinator(capacity=3)
    calls = new_calls(5)
    answers = await asyncio.gather(
        *(coordinator.submit(*call) for call in calls), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [TransactionOutcome] * 3 + [CoordinatorFull] * 2
    assert (await coordinator.submit(new_id(), {})).confirmed  # there is room again
    assert await probe.states(calls[3:]) == [("", None)] * 2


@pytest.mark.parametrize("op", [BranchOp.TRY, BranchOp.CONFIRM])
async def test_a_branch_without_an_answer_is_asked_again(bench, probe, op):
    probe.faults["wallet", op] = [Unavailable(), Unavailable()]
    call = BranchCall(new_id(), {})
    assert (await bench.coordinator().submit(*call)).confirmed
    assert await probe.effects(call.tx_id) == ALL_TRIED + ALL_CONFIRMED


@pytest.mark.parametrize("op", [BranchOp.TRY, BranchOp.CONFIRM, BranchOp.CANCEL])
async def test_F7_lost_replies_do_nothing_twice(bench, probe, op):
    branches = [probe.branch("stock"), LosesReplies(probe.branch("wallet"), op, times=2)]
    call = BranchCall(new_id(), {"refuses": "coupon try"} if op is BranchOp.CANCEL else {})
    outcomes = await bench.coordinator(branches=[*branches, probe.branch("coupon")]).run([call])
    canceled = outcomes[call.tx_id].state is TransactionState.CANCELED
    assert canceled is (op is BranchOp.CANCEL)
    await probe.assert_whole(bench.names, [call])


async def test_a_try_of_unknown_outcome_is_cancelled_and_its_effect_undone(bench, probe):
    branches = [probe.branch("stock"), LosesReplies(probe.branch("wallet"), BranchOp.TRY, times=99)]
    call = BranchCall(new_id(), {})
    outcomes = await bench.coordinator(branches=branches).run([call])
    assert outcomes[call.tx_id] == TransactionOutcome(TransactionState.CANCELED, "unavailable")
    assert await probe.effects(call.tx_id) == [
        "stock try",
        "wallet try",
        "wallet cancel",
        "stock cancel",
    ]


async def test_a_bug_takes_only_the_transaction_that_hits_it(bench, probe):
    good, bad = new_calls(7), new_calls(1, breaks="wallet try")
    outcomes = await bench.coordinator().run(good[:4] + bad + good[4:])
    assert all(outcomes[call.tx_id].confirmed for call in good)
    assert outcomes[bad[0].tx_id] == TransactionOutcome(TransactionState.CANCELED, "error")
    await probe.assert_whole(bench.names, good + bad)


async def test_what_the_log_cannot_write_fails_by_itself(bench, probe):
    coordinator = bench.coordinator(calls=1)
    good = new_calls(9)
    odd = [
        BranchCall("x" * 65, {}),
        BranchCall("nul\0", {}),
        BranchCall(new_id(), {"nul": "\0"}),
        BranchCall(new_id(), {"what": object()}),
    ]
    answers = await asyncio.gather(
        *(coordinator.submit(*call) for call in good[:4] + odd + good[4:]), return_exceptions=True
    )
    failed = [isinstance(answer, Exception) for answer in answers]
    assert failed == [False] * 4 + [True] * 4 + [False] * 5
    await probe.assert_whole(bench.names, good)


async def test_what_cannot_be_confirmed_now_stays_decided_until_it_can(bench, probe):
    probe.faults["wallet", BranchOp.CONFIRM] = [Unavailable()] * attempts.TRIES
    call = BranchCall(new_id(), {})
    outcome = await bench.coordinator().submit(*call)
    assert outcome.state is TransactionState.CONFIRMING
    due = await probe.db.fetchval(
        "SELECT due_at - now() < make_interval(secs => $2) FROM transactions WHERE tx_id = $1",
        call.tx_id,
        tcc.BACKOFF.first_s,
    )
    assert due, "its next attempt should not wait for the lease"

    await bench.recover([call])

    assert await probe.states([call]) == [(TransactionState.CONFIRMED, None)]
    await probe.assert_whole(bench.names, [call])


async def test_what_cannot_be_confirmed_at_all_is_parked(bench, probe, monkeypatch):
    monkeypatch.setattr(tcc, "ATTEMPTS_MAX", 3)
    call = BranchCall(new_id(), {"breaks": "wallet confirm"})
    await bench.coordinator().submit(*call)
    for _ in range(2):
        assert await probe.states([call]) == [(TransactionState.CONFIRMING, None)]
        await bench.recover([call])
    assert await probe.states([call]) == [(TransactionState.FAILED, None)]
    await bench.recover([call])  # is left alone, and counted
    assert REGISTRY.get_sample_value("seckill_transactions_parked") >= 1
    row = await probe.db.fetchrow(
        "SELECT attempts, error, done_at FROM branches WHERE tx_id = $1 AND branch = 'wallet'",
        call.tx_id,
    )
    assert tuple(row) == (3, "ArithmeticError: a bug", None)


async def test_a_store_that_does_not_work_is_no_attempt(bench, probe, monkeypatch):
    """A confirm whose function is missing, say; the log itself can be written."""
    monkeypatch.setattr(tcc, "ATTEMPTS_MAX", 2)
    missing = asyncpg.UndefinedFunctionError("function confirm_payments does not exist")
    rounds = 4
    probe.faults["wallet", BranchOp.CONFIRM] = [missing] * (attempts.TRIES + rounds)
    call = BranchCall(new_id(), {})
    await bench.coordinator().submit(*call)
    for _ in range(rounds):
        await bench.recover([call])
    count = "SELECT attempts FROM transactions WHERE tx_id = $1"
    assert await probe.states([call]) == [(TransactionState.CONFIRMING, None)]
    assert await probe.db.fetchval(count, call.tx_id) == 0
    await bench.recover([call])
    assert await probe.states([call]) == [(TransactionState.CONFIRMED, None)]


async def test_a_branch_that_refuses_to_confirm_is_in_trouble_not_obeyed(bench, probe):
    call = BranchCall(new_id(), {"refuses": "coupon confirm"})
    assert (await bench.coordinator().submit(*call)).state is TransactionState.CONFIRMING
    assert await probe.states([call]) == [(TransactionState.CONFIRMING, None)]


async def test_F12_a_coordinator_killed_at_any_point_leaves_nothing_half_done(bench, probe):
    calls = await _kill_everywhere(bench, probe)
    await bench.recover(calls)
    await probe.assert_whole(bench.names, calls)
    states = {state for state, _ in await probe.states(calls)}
    assert states == {"", TransactionState.CONFIRMED, TransactionState.CANCELED}, (
        "before, in the middle, after"
    )


async def test_F12_a_recoverer_killed_at_any_point_leaves_nothing_half_done(bench, probe):
    calls = await _kill_everywhere(bench, probe)
    points = 0
    for points in range(1000):
        await probe.make_due(calls)
        mortal = MortalPool(probe.db, Fuse(points))
        try:
            await bench.recovery(mortal).run_once()
        except Killed:
            continue
        break
    assert points > 10
    await bench.recover(calls)
    await probe.assert_whole(bench.names, calls)


async def _kill_everywhere(bench: TransactionBench, probe: Probe) -> list[BranchCall]:
    """Run batches of two, one to win and one to lose, each killed at the next point."""
    calls: list[BranchCall] = []
    for points in range(1000):
        pair = [*new_calls(1), *new_calls(1, refuses="coupon try")]
        calls += pair
        try:
            await bench.coordinator(MortalPool(probe.db, Fuse(points))).run(pair)
        except Killed:
            continue
        return calls
    raise AssertionError("it never came to its end")


async def test_two_recoverers_at_once_share_the_work(bench, probe):
    calls = new_calls(60)
    await bench.coordinator()._log.begin("tcc", bench.name, TransactionState.TRYING, calls)
    await probe.make_due(calls)
    passes = await asyncio.gather(*(bench.recovery().run_once() for _ in range(4)))
    assert sum(p.taken for p in passes) == len(calls)
    assert set(await probe.states(calls)) == {(TransactionState.CANCELED, "abandoned")}


async def test_a_lease_keeps_recovery_out_until_it_ends(bench, probe, monkeypatch):
    call = BranchCall(new_id(), {})
    await bench.coordinator()._log.begin("tcc", bench.name, TransactionState.TRYING, [call])
    assert (await bench.recovery().run_once()).taken == 0
    monkeypatch.setattr(log, "LEASE_S", 0.0)
    await probe.make_due([call])
    assert len(await bench.coordinator()._log.take_due([bench.name], 10)) == 1
    assert len(await bench.coordinator()._log.take_due([bench.name], 10)) == 1


async def test_who_lost_the_lease_while_trying_does_not_confirm(bench, probe):
    """A coordinator that was frozen wakes up to find its transaction cancelled."""
    call = BranchCall(new_id(), {})
    stock = probe.branch("stock")

    class Slow:
        name = "wallet"

        async def run(self, op, calls):
            if op is BranchOp.TRY:
                await bench.recover(calls, branches=[stock, probe.branch("wallet")])
            return await probe.branch("wallet").run(op, calls)

    outcomes = await bench.coordinator(branches=[stock, Slow()]).run([call])

    assert not outcomes[call.tx_id].confirmed
    assert await probe.effects(call.tx_id) == ["stock try", "stock cancel"]
    assert await probe.states([call]) == [(TransactionState.CANCELED, "abandoned")]


async def test_definitions_that_a_process_does_not_know_are_left_alone(bench, probe):
    call = BranchCall(new_id(), {})
    await bench.coordinator()._log.begin("tcc", bench.name, TransactionState.TRYING, [call])
    await probe.make_due([call])
    assert (await TransactionBench(probe).recovery().run_once()).taken == 0


async def test_what_ended_long_ago_is_removed_with_its_barriers(bench, probe, db):
    old, young = new_calls(2)
    await bench.coordinator().run([old, young])
    await db.execute(
        "UPDATE transactions SET ended_at = now() - interval '2 days' WHERE tx_id = $1", old.tx_id
    )
    assert (await bench.recovery().run_once()).removed >= 1
    assert await probe.states([old, young]) == [("", None), (TransactionState.CONFIRMED, None)]
    count = "SELECT count(*) FROM barriers WHERE tx_id = $1"
    assert [await db.fetchval(count, w.tx_id) for w in (old, young)] == [0, 6]


@pytest.mark.parametrize("number", range(1, 4))
async def test_a_write_of_the_log_that_fails_leaves_it_to_recovery(
    bench, probe, monkeypatch, number
):
    coordinator = bench.coordinator()
    name = ("begin", "decide", "end")[number - 1]

    async def unavailable(*_: object, **__: object) -> None:
        raise Unavailable

    monkeypatch.setattr(coordinator._log, name, unavailable)
    calls = [*new_calls(1), *new_calls(1, refuses="wallet try")]
    try:
        outcomes = await coordinator.run(calls)
    except Unavailable:
        assert name == "begin"
    else:
        pending = not outcomes[calls[0].tx_id].confirmed
        assert pending is (name == "decide")
    await bench.recover(calls)
    await probe.assert_whole(bench.names, calls)
