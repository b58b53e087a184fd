"""Sagas on real PostgreSQL and RabbitMQ: forward step by step, back in reverse, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from consumers.roles.saga_steps import SagaSteps
from seckill import messages
from seckill.adapters import topology
from seckill.adapters.publisher import Publisher
from seckill.errors import Unavailable
from seckill.transactions import manual, saga
from seckill.transactions.branches import Definition
from seckill.transactions.log import TransactionLog
from seckill.transactions.recovery import Recovery
from seckill.transactions.saga import Saga
from seckill.transactions.states import BranchCall, BranchOp, SagaPosition, TransactionState
from tests.transactions import (
    DAY_S,
    SAGA_OPS,
    Fuse,
    Killed,
    LosesReplies,
    MortalPool,
    Probe,
    new_calls,
    new_id,
)

STEPS = ("capture", "ship", "notify")
ALL_DONE = ["capture do", "ship do", "notify do"]

pytestmark = pytest.mark.usefixtures("queues")


class Fulfilment:
    """A saga definition of its own for a test, and workers for it."""

    def __init__(self, probe: Probe, publisher: Publisher) -> None:
        self.probe = probe
        self.publisher = publisher
        self.name = new_id()

    def saga(self, db=None, steps=()) -> Saga:
        steps = steps or [self.probe.branch(name, db, SAGA_OPS) for name in STEPS]
        log = TransactionLog(db or self.probe.db)
        return Saga(Definition(self.name, tuple(steps)), log, self.publisher)

    async def begin(self, calls: Sequence[BranchCall], db=None, connection=None) -> None:
        """Write sagas down, as the business transaction does."""
        log = TransactionLog(db or self.probe.db)
        await log.begin("saga", self.name, TransactionState.RUNNING, calls, connection=connection)

    async def start(self, calls: Sequence[BranchCall]) -> None:
        """Write sagas down, and send the messages of their first steps."""
        await self.begin(calls)
        positions = [SagaPosition(call.tx_id, TransactionState.RUNNING, 0) for call in calls]
        await self.saga().announce(positions)

    def recovery(self, **how) -> Recovery:
        return Recovery(TransactionLog(self.probe.db), [self.saga(**how)], retention_s=DAY_S)


@pytest.fixture
def fulfilment(probe: Probe, publisher: Publisher) -> Fulfilment:
    return Fulfilment(probe, publisher)


@pytest.fixture
def working(queue_role, running):
    """Run a worker of these sagas for as long as the block lasts."""
    return lambda *sagas: running(queue_role(topology.SAGA_STEPS, SagaSteps(sagas).handle))


@pytest.fixture
def reach(probe, eventually):
    """Wait until sagas are in a state."""

    async def wait(calls: list[BranchCall], state: TransactionState) -> None:
        async def there() -> bool:
            return {found for found, _ in await probe.states(calls)} == {state}

        await eventually(there, f"all {state}")

    return wait


async def test_steps_are_done_one_after_the_other(fulfilment, probe, working, reach):
    calls = new_calls(5)
    async with working(fulfilment.saga()):
        await fulfilment.start(calls)
        await reach(calls, TransactionState.COMPLETED)
    for each in calls:
        assert await probe.effects(each.tx_id) == ALL_DONE


async def test_a_refused_third_step_undoes_the_first_two_in_reverse_once_each(
    fulfilment, probe, working, reach, db
):
    calls = new_calls(1, refuses="notify do")
    async with working(fulfilment.saga()):
        await fulfilment.start(calls)
        await reach(calls, TransactionState.COMPENSATED)
    tx_id = calls[0].tx_id
    assert await probe.effects(tx_id) == ["capture do", "ship do", "ship undo", "capture undo"]
    assert await probe.states(calls) == [(TransactionState.COMPENSATED, "no")]
    shown = await manual.show(db, tx_id)
    assert [(b.branch, b.op, b.attempts, b.error) for b in shown.branches] == [
        ("capture", "do", 1, None),
        ("ship", "do", 1, None),
        ("notify", "do", 1, "no"),
        ("notify", "undo", 1, None),
        ("ship", "undo", 1, None),
        ("capture", "undo", 1, None),
    ]
    assert [b.done_at is None for b in shown.branches] == [False, False, True, False, False, False]


async def test_F23_a_second_copy_of_a_refused_step_does_nothing_later(fulfilment, probe):
    """Two workers have the same message: refused to one, the other would do it."""
    (tx,) = calls = new_calls(1, refuses_once="capture do")
    await fulfilment.begin(calls)
    await fulfilment.saga().handle([SagaPosition(tx.tx_id, TransactionState.RUNNING, 0)])
    await fulfilment.saga().handle([SagaPosition(tx.tx_id, TransactionState.COMPENSATING, 0)])
    assert await probe.states(calls) == [(TransactionState.COMPENSATED, "no")]
    capture = probe.branch("capture", ops=SAGA_OPS)
    assert await capture.run(BranchOp.DO, calls) == {tx.tx_id: "late"}
    assert await probe.effects(tx.tx_id) == []


async def test_a_first_step_that_is_refused_has_nothing_to_undo(fulfilment, probe, working, reach):
    calls = new_calls(1, refuses="capture do")
    async with working(fulfilment.saga()):
        await fulfilment.start(calls)
        await reach(calls, TransactionState.COMPENSATED)
    assert await probe.effects(calls[0].tx_id) == []


async def test_a_step_in_trouble_waits_longer_each_time_and_is_then_done(
    fulfilment, probe, working, reach, eventually, db
):
    probe.faults["ship", BranchOp.DO] = [Unavailable("no answer")] * 3
    calls = new_calls(1)
    failed = "SELECT attempts FROM transactions WHERE tx_id = $1"
    async with working(fulfilment.saga()):
        await fulfilment.start(calls)
        for attempt in (1, 2, 3):

            async def noted(attempt=attempt) -> bool:
                return await db.fetchval(failed, calls[0].tx_id) == attempt

            await eventually(noted, f"failure {attempt}")
            await probe.make_due(calls)
            assert (await fulfilment.recovery().run_once()).taken == 1
        await reach(calls, TransactionState.COMPLETED)
    assert await probe.effects(calls[0].tx_id) == ALL_DONE
    shown = await manual.show(db, calls[0].tx_id)
    ship = shown.branches[1]
    assert (ship.branch, ship.attempts, ship.error) == ("ship", 4, "Unavailable: no answer")
    assert ship.first_at < ship.done_at


async def test_a_step_that_stays_unknown_is_undone_too(
    fulfilment, probe, working, reach, monkeypatch
):
    monkeypatch.setattr(saga, "DO_ATTEMPTS_MAX", 1)
    lossy = LosesReplies(probe.branch("ship", ops=SAGA_OPS), BranchOp.DO, times=1)
    steps = [probe.branch("capture", ops=SAGA_OPS), lossy, probe.branch("notify", ops=SAGA_OPS)]
    calls = new_calls(1)
    async with working(fulfilment.saga(steps=steps)):
        await fulfilment.start(calls)
        await reach(calls, TransactionState.COMPENSATED)
    effects = await probe.effects(calls[0].tx_id)
    assert effects == ["capture do", "ship do", "ship undo", "capture undo"]


async def test_a_store_that_does_not_work_undoes_no_step(
    fulfilment, probe, working, eventually, monkeypatch
):
    monkeypatch.setattr(saga, "DO_ATTEMPTS_MAX", 1)
    monkeypatch.setattr(saga, "HOLD_S", 0.0)
    read_only = asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT")
    probe.faults["ship", BranchOp.DO] = [read_only] * 3
    calls = new_calls(1)
    async with working(fulfilment.saga()):
        await fulfilment.start(calls)

        async def is_done() -> bool:
            await fulfilment.recovery().run_once()
            return await probe.states(calls) == [(TransactionState.COMPLETED, None)]

        await eventually(is_done, "done as soon as the store works")
    assert await probe.effects(calls[0].tx_id) == ALL_DONE


async def test_a_lost_message_is_sent_again_by_recovery(fulfilment, probe, working, reach, queues):
    calls = new_calls(3)
    await fulfilment.start(calls)
    await queues.take(topology.SAGA_STEPS, len(calls))  # and lost
    await probe.make_due(calls)
    async with working(fulfilment.saga()):
        await fulfilment.recovery().run_once()
        await reach(calls, TransactionState.COMPLETED)
    assert await probe.effects(calls[0].tx_id) == ALL_DONE


async def test_an_unavailable_broker_delays_a_saga_and_loses_nothing(
    fulfilment, probe, working, reach, monkeypatch
):
    calls = new_calls(2)

    async def unavailable(*_: object) -> None:
        raise Unavailable("RabbitMQ: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(fulfilment.publisher, "publish", unavailable)
        await fulfilment.start(calls)
    await probe.make_due(calls)
    async with working(fulfilment.saga()):
        await fulfilment.recovery().run_once()
        await reach(calls, TransactionState.COMPLETED)


async def test_F23_messages_that_come_again_do_nothing_again(
    fulfilment, probe, working, reach, publisher, queues
):
    calls = new_calls(1)
    (tx_id, _) = calls[0]
    async with working(fulfilment.saga()), working(fulfilment.saga()):
        await fulfilment.start(calls)
        for _ in range(10):
            body = messages.encode_saga_step(fulfilment.name, tx_id, TransactionState.RUNNING, 0)
            await publisher.publish(topology.SAGA_STEPS, body)
        await reach(calls, TransactionState.COMPLETED)
        body = messages.encode_saga_step(fulfilment.name, tx_id, TransactionState.COMPENSATING, 2)
        await publisher.publish(topology.SAGA_STEPS, body)
    assert await probe.effects(tx_id) == ALL_DONE
    assert await queues.dead(topology.SAGA_STEPS) == []


async def test_two_workers_with_the_same_step_do_it_once(fulfilment, probe):
    calls = new_calls(20)
    await fulfilment.begin(calls)
    positions = [SagaPosition(call.tx_id, TransactionState.RUNNING, 0) for call in calls]
    await asyncio.gather(*(fulfilment.saga().handle(positions) for _ in range(4)))
    for each in calls:
        assert await probe.effects(each.tx_id) == ["capture do"]


async def test_a_compensation_that_cannot_finish_is_parked(
    fulfilment, probe, working, reach, monkeypatch
):
    monkeypatch.setattr(saga, "UNDO_ATTEMPTS_MAX", 1)
    calls = new_calls(1, refuses="notify do", breaks="ship undo")
    async with working(fulfilment.saga()):
        await fulfilment.start(calls)
        await reach(calls, TransactionState.FAILED)
    await probe.make_due(calls)
    assert (await fulfilment.recovery().run_once()).taken == 0
    assert await probe.effects(calls[0].tx_id) == ["capture do", "ship do"]


async def test_a_saga_that_this_version_does_not_know_is_retried(
    fulfilment, working, queues, eventually
):
    await fulfilment.start(new_calls(1))

    async def waits() -> bool:
        return await queues.size(topology.retry(topology.RETRY_DELAYS_S[0])) == 1

    async with working():
        await eventually(waits, "it waits in the first retry queue")


async def test_a_step_that_this_version_does_not_know_waits_for_a_newer_one(fulfilment, probe, db):
    calls = new_calls(1, refuses="notify do")
    await fulfilment.begin(calls)
    (tx_id, _) = calls[0]
    for step in range(2):
        await fulfilment.saga().handle([SagaPosition(tx_id, TransactionState.RUNNING, step)])
    old = fulfilment.saga(steps=[probe.branch("capture", ops=SAGA_OPS)])
    await old.handle([SagaPosition(tx_id, TransactionState.RUNNING, 2)])
    assert await probe.states(calls) == [(TransactionState.RUNNING, None)]
    assert await probe.effects(tx_id) == ["capture do", "ship do"]
    waits = "SELECT due_at > now() + interval '20 seconds' FROM transactions WHERE tx_id = $1"
    assert await db.fetchval(waits, tx_id), "as long as between attempts, not a lease"


async def test_a_saga_begun_in_a_transaction_that_is_rolled_back_never_was(fulfilment, probe, db):
    calls = new_calls(1)
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await fulfilment.begin(calls, connection=connection)
        await transaction.rollback()
    assert await probe.states(calls) == [("", None)]


@pytest.mark.parametrize("refuses", ["", "notify do"])
async def test_F12_a_worker_killed_at_any_point_leaves_nothing_half_done(
    fulfilment, probe, working, reach, refuses, queues
):
    calls = []
    for points in range(1000):
        one = new_calls(1, refuses=refuses)
        calls += one
        try:
            pool = MortalPool(probe.db, Fuse(points))
            await fulfilment.begin(one, pool)
            mortal = fulfilment.saga(pool)
            for state, step in _WAY[bool(refuses)]:
                await mortal.handle([SagaPosition(one[0].tx_id, state, step)])
        except Killed:
            continue
        break
    await queues.empty()  # every message is lost as well

    begun = [w for w, (state, _) in zip(calls, await probe.states(calls), strict=True) if state]
    await probe.make_due(begun)
    async with working(fulfilment.saga()):
        await fulfilment.recovery().run_once()
        await reach(begun, TransactionState.COMPENSATED if refuses else TransactionState.COMPLETED)

    assert len(begun) > 20
    expected = ["capture do", "ship do", "ship undo", "capture undo"] if refuses else ALL_DONE
    for each in begun:
        assert await probe.effects(each.tx_id) == expected


_WAY = {
    False: [
        (TransactionState.RUNNING, 0),
        (TransactionState.RUNNING, 1),
        (TransactionState.RUNNING, 2),
    ],
    True: [
        (TransactionState.RUNNING, 0),
        (TransactionState.RUNNING, 1),
        (TransactionState.RUNNING, 2),
        (TransactionState.COMPENSATING, 2),
        (TransactionState.COMPENSATING, 1),
        (TransactionState.COMPENSATING, 0),
    ],
}
